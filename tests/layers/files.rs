//! Imports between the files of a crate, read from their `use` declarations and paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The files that are roots of a crate.
const ROOTS: [&str; 2] = ["lib", "main"];

/// The modules of one crate: the path of each as Rust spells it, and the modules that it imports.
pub struct Imports {
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Imports {
    /// Reads all files below `src`.
    pub fn read(src: &Path) -> Imports {
        let mut files = BTreeMap::new();
        collect(src, src, &mut files);

        let modules: BTreeSet<&String> = files.keys().collect();
        let mut edges: BTreeMap<String, BTreeSet<String>> = files
            .iter()
            .map(|(module, text)| {
                let found = paths(module, text).into_iter();
                let found = found.filter_map(|path| owner(&path, &modules));
                (module.clone(), found.filter(|other| other != module).collect())
            })
            .collect();

        // The root names every module: what imports one of its names again goes round in a circle.
        for root in ROOTS {
            let all = files.keys().filter(|module| *module != root).cloned().collect();
            edges.entry(root.to_string()).and_modify(|edges| *edges = all);
        }
        Imports { edges }
    }

    /// How many imports there are between files.
    pub fn count(&self) -> usize {
        self.edges.values().map(BTreeSet::len).sum()
    }

    /// Groups of files that import each other in a circle and do not all lie in one folder of `src`.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let reach: BTreeMap<&String, BTreeSet<&String>> =
            self.edges.keys().map(|module| (module, self.reached_from(module))).collect();
        let mut circles = BTreeSet::new();
        for (module, reached) in &reach {
            let back = reached.iter().filter(|other| reach[**other].contains(module));
            let circle: BTreeSet<String> = back.map(|other| (*other).clone()).collect();
            let rooms: BTreeSet<&str> = circle.iter().map(|module| room(module)).collect();
            if rooms.len() > 1 {
                circles.insert(circle.into_iter().collect());
            }
        }
        circles.into_iter().collect()
    }

    fn reached_from(&self, module: &String) -> BTreeSet<&String> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&String> = self.edges[module].iter().collect();
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(&self.edges[next]);
            }
        }
        reached
    }
}

/// The first name of a module's path: `a` and all files below it have one owner.
fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

fn collect(src: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(src, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(src).unwrap().with_extension("");
            let names: Vec<&str> = relative.iter().map(|name| name.to_str().unwrap()).collect();
            files.insert(names.join("::"), fs::read_to_string(&path).unwrap());
        }
    }
}

/// All paths in a file that begin with `crate::` or `super::`, from the root of the crate.
fn paths(module: &str, text: &str) -> Vec<String> {
    // Tests may import what they like.
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let comments = Regex::new(r"(?m)//.*$").unwrap();
    // What a macro expands to is an import of the file that calls it.
    let text = comments.replace_all(text, "").replace("$crate::", "");

    let mut found = Vec::new();
    let head = Regex::new(r"\b(crate|(?:super::)*super)::").unwrap();
    for place in head.captures_iter(&text) {
        let base = base(module, &place[1]);
        let rest = &text[place.get(0).unwrap().end()..];
        tree(&base, rest, &mut found);
    }
    found
}

/// The module that `crate` or a chain of `super` means inside `module`.
fn base(module: &str, head: &str) -> Vec<String> {
    if head == "crate" {
        return Vec::new();
    }
    let mut names: Vec<String> = module.split("::").map(String::from).collect();
    for _ in head.split("::") {
        names.pop();
    }
    names
}

/// Adds the paths of a `use` tree, of which `rest` is what follows `base::`; returns the bytes read.
fn tree(base: &[String], rest: &str, found: &mut Vec<String>) -> usize {
    let space = |at: usize| at + rest[at..].len() - rest[at..].trim_start().len();
    let mut at = space(0);
    if rest[at..].starts_with('{') {
        at += 1;
        loop {
            at = space(at);
            match rest[at..].chars().next() {
                Some('}') => return at + 1,
                Some(',') => at += 1,
                Some(_) => at += tree(base, &rest[at..], found).max(1),
                None => return at,
            }
        }
    }

    let name = rest[at..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*');
    let name = &rest[at..name.map_or(rest.len(), |end| at + end)];
    let mut path = base.to_vec();
    if name != "self" && name != "*" {
        path.push(name.to_string());
    }
    at += name.len();
    if rest[at..].starts_with("::") {
        return at + 2 + tree(&path, &rest[at + 2..], found);
    }
    found.push(path.join("::"));

    // A renamed import ends behind its new name.
    let renamed = Regex::new(r"^\s+as\s+\w+").unwrap();
    at + renamed.find(&rest[at..]).map_or(0, |found| found.end())
}

/// The file that a path leads into: the longest part of it that names a module, else the root of the crate.
fn owner(path: &str, modules: &BTreeSet<&String>) -> Option<String> {
    // An exported macro has its name at the root, wherever it is written.
    if path.starts_with("__") {
        return None;
    }
    let mut names: Vec<&str> = path.split("::").collect();
    while !names.is_empty() {
        let module = names.join("::");
        if modules.contains(&module) {
            return Some(module);
        }
        names.pop();
    }
    ROOTS.iter().map(|root| root.to_string()).find(|root| modules.contains(root))
}

#[test]
fn a_tree_of_imports_is_read() {
    let mut found = Vec::new();
    let text = "kind::{self, MAIN, values::{a, b as c}, Input};\nuse x::y;";
    let read = tree(&[], text, &mut found);
    assert_eq!(&text[read..], ";\nuse x::y;");
    assert_eq!(found, ["kind", "kind::MAIN", "kind::values::a", "kind::values::b", "kind::Input"]);
}

#[test]
fn a_circle_across_folders_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "pub mod a; pub mod b;");
    write("a.rs", "mod inner; use crate::b::{B};");
    write("a/inner.rs", "use super::A; use crate::a;");
    write("b.rs", "mod deep;");
    write("b/deep.rs", "fn f() { crate::a::inner::g() }");
    let imports = Imports::read(folder.path());
    assert!(imports.circles().is_empty(), "{:?}", imports.circles());

    write("b.rs", "mod deep; use self::deep::D; use crate::a::A;");
    assert_eq!(Imports::read(folder.path()).circles(), [["a", "b"]]);

    write("b.rs", "use crate::Renamed;");
    assert_eq!(Imports::read(folder.path()).circles(), [["a", "a::inner", "b", "b::deep", "lib"]]);
}
