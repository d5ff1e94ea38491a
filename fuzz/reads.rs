//! What the targets do with their bytes; the crates' tests do the same with damaged seeds.

use std::cell::RefCell;
use std::path::Path;

use refrain_cache::{Cache, TableReader};
use refrain_engine::graph::Graph;
use refrain_engine::language::diagnostic::SourceText;
use refrain_engine::language::workflow::{Override, Workflow};
use refrain_engine::report::{expect, results};
use refrain_engine::source::{Format, SourceSpec};
use refrain_lm::adapter::Adapter;
use refrain_lm::card::Card;
use refrain_lm::chat::message;
use refrain_lm::model::{LanguageModel, ModelPath};
use refrain_lm::render::{Prompt, Renderer, RowText};
use refrain_lm::tokenizer::Tokenizer;

/// A workflow of any bytes: parsed, resolved to its graph and checked, never run.
///
/// Its sources are looked for in `world`, which holds a table of each format and a model.
pub fn workflow(bytes: &[u8], world: &Path) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // A last line `--set NAME=VALUE` is what the command line says.
    let (text, set) = match text.trim_end().rsplit_once("\n--set ") {
        Some((text, set)) => (text, set.split_once('=')),
        None => (text, None),
    };
    let set: Vec<Override> = set
        .map(|(name, value)| Override { name: name.into(), value: value.into() })
        .into_iter()
        .collect();
    let path = world.join("w.yaml");
    let source = SourceText::new(path, text);
    let Ok(workflow) = Workflow::parse(source, &refrain_stages::kinds(), &set) else { return };
    let mut problems = Vec::new();
    let _ = expect::parse(&workflow, &workflow.axes, &mut problems);
    let _ = results::parse(&workflow, &mut problems);
    if let Ok(graph) = Graph::build(workflow) {
        for id in graph.ids() {
            assert!(graph.find(&graph.node(id).name).is_some(), "a node is found by its name");
        }
    }
}

/// Where tables are written, thrown away now and then.
struct World {
    folder: tempfile::TempDir,
    cache: Cache,
    tables: usize,
}

impl World {
    fn new() -> World {
        let folder = folder();
        let cache = Cache::open(&folder.path().join("cache")).expect("a cache can be made");
        World { folder, cache, tables: 0 }
    }
}

/// A folder for files that live for a moment: in memory where the system has such a place.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder can be made")
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new());
}

/// A table of any bytes, JSON Lines or Parquet, brought into a cache; what came in comes out the same again.
pub fn table(bytes: &[u8]) {
    let Some((first, content)) = bytes.split_first() else { return };
    let format = if first % 2 == 0 { Format::Jsonl } else { Format::Parquet };
    WORLD.with_borrow_mut(|world| {
        if world.tables >= 1000 {
            *world = World::new();
        }
        let path = world.folder.path().join("rows");
        std::fs::write(&path, content).expect("a file can be written");
        let spec = |path, format: Format| {
            let options = serde_json::Map::from_iter([("format".into(), format.word().into())]);
            SourceSpec::new(path, &options).expect("the file is there")
        };
        let first = spec(path, format);
        let (header, table) = (first.schema(), first.import(&world.cache));
        let Ok(table) = table else { return };
        world.tables += 1;
        let object = world.cache.object_path(&table.digest);
        let reader = TableReader::open(&object).expect("what was written can be read");
        if format == Format::Parquet {
            let header = header.expect("the header could be read");
            let pairs = || header.fields().iter().zip(reader.schema().fields());
            assert!(pairs().all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type()));
            assert_eq!(header.fields().len(), reader.schema().fields().len());
        }
        let again =
            spec(object, Format::Parquet).import(&world.cache).expect("a table is a source");
        assert_eq!(again.digest, table.digest, "a table read again is the same table");
    });
}

/// The files that are read of a model's folder.
const NAMES: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "adapter_config.json",
    "adapter_model.safetensors",
];
const MARK: &[u8] = b"\n=== ";
/// Bytes of weights beyond which a model is not built: a run is to take milliseconds.
const LARGE: usize = 1 << 20;

/// A model's folder of any bytes: a sequence of files, each a line `=== NAME`, then its content up to the next such line.
pub fn model(bytes: &[u8]) {
    if bytes.len() > LARGE {
        return;
    }
    let folder = folder();
    let mut rest = bytes;
    while let Some(file) = rest.strip_prefix(&MARK[1..]) {
        let end = file.windows(MARK.len()).position(|w| w == MARK).unwrap_or(file.len());
        let (file, after) = file.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        let line = file.iter().position(|b| *b == b'\n').unwrap_or(file.len());
        let name = std::str::from_utf8(&file[..line]).unwrap_or_default();
        if NAMES.contains(&name) {
            let content = file.get(line + 1..).unwrap_or_default();
            std::fs::write(folder.path().join(name), content).expect("a file can be written");
        }
    }
    read(folder.path());
}

fn read(folder: &Path) {
    let _ = Card::read(folder);
    if let Ok(tokenizer) = Tokenizer::load(folder) {
        for text in ["", "hello  world\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaab", "é<|im_end|>\u{0}"] {
            if let Ok(encoding) = tokenizer.encode(text, true) {
                assert_eq!(encoding.ids.len(), encoding.offsets.len());
                assert!(
                    encoding.offsets.is_sorted()
                        && encoding.offsets.iter().all(|o| *o as usize <= text.len())
                );
                let _ = tokenizer.decode(&encoding.ids, true);
            }
        }
        if let Ok(renderer) = Renderer::new(&tokenizer, true) {
            let turns = [message("user", "hello")];
            let row = RowText {
                prompt: Prompt::Messages(&turns),
                system: Some("be brief"),
                tools: None,
                response_fields: None,
                response: Some("yes"),
            };
            let _ = renderer.full(&row);
        }
    }
    let has_adapter = Adapter::load(folder).is_ok();
    let adapters = if has_adapter { vec![folder.to_owned()] } else { Vec::new() };
    let _ = LanguageModel::load(&ModelPath { folder: folder.to_owned(), adapters });
}
