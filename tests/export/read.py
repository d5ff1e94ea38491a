"""Reads an exported store with the tracker itself and prints its runs as JSON.

    python read.py mlflow|trackio|tensorboard DIR

Each run: its settings (params), its metrics as [step, value], its tags, its times.
"""

import json
import os
import sys


def mlflow(folder):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    runs = {}
    for experiment in client.search_experiments():
        found, token = [], None
        while True:
            page = client.search_runs([experiment.experiment_id], page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                break
        for run in found:
            history = {
                name: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            }
            runs[run.info.run_name] = {
                "experiment": experiment.name,
                "description": experiment.tags.get("mlflow.note.content"),
                "params": run.data.params,
                "metrics": history,
                "last": run.data.metrics,
                "tags": run.data.tags,
                "times": [run.info.start_time, run.info.end_time],
                "status": run.info.status,
            }
    return runs


def trackio(folder):
    os.environ["TRACKIO_DIR"] = folder
    from trackio.sqlite_storage import SQLiteStorage

    runs = {}
    for project in SQLiteStorage.get_projects():
        SQLiteStorage.init_db(project)
        for name in SQLiteStorage.get_runs(project):
            history = {}
            for row in SQLiteStorage.get_logs(project, name):
                for metric, value in row.items():
                    if metric not in ("step", "timestamp"):
                        history.setdefault(metric, []).append([row["step"], value])
            runs[name] = {
                "experiment": project,
                "params": SQLiteStorage.get_run_config(project, name),
                "metrics": history,
            }
    return runs


def tensorboard(folder):
    from tensorboard.backend.event_processing import event_accumulator, event_multiplexer
    from tensorboard.plugins.hparams import metadata
    from tensorboard.util import tensor_util

    unlimited = {event_accumulator.TENSORS: 0, event_accumulator.SCALARS: 0}
    multiplexer = event_multiplexer.EventMultiplexer(size_guidance=unlimited)
    multiplexer.AddRunsFromDirectory(folder)
    multiplexer.Reload()
    runs = {}
    for name in multiplexer.Runs():
        accumulator = multiplexer.GetAccumulator(name)
        history = {
            tag: [[event.step, event.value] for event in accumulator.Scalars(tag)]
            for tag in accumulator.Tags()["scalars"]
        }
        contents = accumulator.PluginTagToContent(metadata.PLUGIN_NAME)
        start = metadata.parse_session_start_info_plugin_data(
            contents[metadata.SESSION_START_INFO_TAG]
        )
        end = metadata.parse_session_end_info_plugin_data(contents[metadata.SESSION_END_INFO_TAG])
        params = {key: getattr(v, v.WhichOneof("kind")) for key, v in start.hparams.items()}
        text = tensor_util.make_ndarray(accumulator.Tensors("provenance/text_summary")[0].tensor_proto)
        runs[name] = {
            "params": params,
            "metrics": history,
            "text": text[0].decode(),
            "times": [start.start_time_secs, end.end_time_secs],
        }
    return runs


if __name__ == "__main__":
    readers = {"mlflow": mlflow, "trackio": trackio, "tensorboard": tensorboard}
    json.dump(readers[sys.argv[1]](os.path.abspath(sys.argv[2])), sys.stdout)
