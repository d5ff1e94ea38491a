//! What must not change a digest: folders, jobs, threads, batches, `--set` to the same value.

use crate::space::{Space, small};

#[test]
fn two_folders_jobs_threads_and_batches_give_the_same_digests() {
    let first = Space::new();
    small(&first);
    let expected = first.digests("w.yaml", &["--jobs", "1"]);
    for (jobs, threads, batch) in [("2", 2, 8), ("2", 1, 1), ("1", 2, 3)] {
        let space = Space::new();
        small(&space);
        for stage in ["base", "scored", "masked", "tuned", "target", "answers"] {
            let resources =
                format!("  {stage}:\n    resources: {{ threads: {threads}, batch: {batch} }}\n");
            space.edit("w.yaml", &format!("  {stage}:\n"), &resources);
        }
        let digests = space.digests("w.yaml", &["--jobs", jobs]);
        for (node, outputs) in &expected {
            assert_eq!(
                outputs, &digests[node],
                "`{node}` with --jobs {jobs}, {threads} threads, batch {batch}"
            );
        }
    }
}
