//! No circles: modules that depend on each other, directly or through others, cannot be understood, tested or moved alone.
//!
//! The child modules of every module are compared with each other, rooms being the children of the crate's root; a folder
//! counts as one child with all the files in it. Child `a` depends on child `b` where a file of `a` imports or names an
//! item that a file of `b` defines. An item reached through a re-export counts for the file that defines it. Items that
//! the parent's own file (`mod.rs`) defines belong to no child: a child may import its folder's types from there even
//! where the parent calls the child, because the two are read together. Test code does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{sources, top_level};

/// `["data", "rows", "row"]`; the crate's root is empty.
type ModulePath = Vec<String>;

#[derive(Default)]
struct Module {
    /// Paths that start with `crate`, `super` or `self`.
    paths: Vec<Vec<String>>,
    /// Paths that `use` brings into scope, by their name here.
    names: BTreeMap<String, Vec<String>>,
}

/// Modules of a crate, without those of its tests.
struct Modules(BTreeMap<ModulePath, Module>);

impl Modules {
    fn parse(files: &BTreeMap<PathBuf, String>) -> Self {
        let mut tests = BTreeSet::new();
        let mut modules = BTreeMap::new();
        for (file, text) in files {
            let path = module_path(file);
            let (code, children) = without_tests(text);
            tests.extend(children.into_iter().map(|child| [&path[..], &[child]].concat()));
            modules.insert(path, Module { paths: paths(&code), names: names(&code) });
        }
        modules.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
        Self(modules)
    }

    /// The module that defines the item which module `from` names as `path`; `None` for items of other crates.
    fn resolve(&self, from: &[String], path: &[String]) -> Option<ModulePath> {
        let mut at = from.to_vec();
        for (index, name) in path.iter().enumerate() {
            match name.as_str() {
                "self" => {}
                "super" => drop(at.pop()),
                "crate" => at.clear(),
                _ => {
                    let child = [&at[..], std::slice::from_ref(name)].concat();
                    if self.0.contains_key(&child) {
                        at = child;
                    } else if let Some(origin) = self.0.get(&at)?.names.get(name) {
                        let is_itself = at == from && origin == path;
                        let rest = [origin, &path[index + 1..]].concat();
                        return if is_itself { None } else { self.resolve(&at, &rest) };
                    } else {
                        // A bare name that is neither a child nor imported is another crate.
                        return (index > 0).then_some(at);
                    }
                }
            }
        }
        Some(at)
    }

    /// Child modules that depend on each other, by parent.
    fn circles(&self) -> BTreeSet<(String, Vec<String>)> {
        let mut dependencies: BTreeMap<&[String], BTreeMap<&str, BTreeSet<String>>> = BTreeMap::new();
        for (from, module) in &self.0 {
            for to in module.paths.iter().filter_map(|path| self.resolve(from, path)) {
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if let (Some(child), Some(other)) = (from.get(common), to.get(common)) {
                    let of_child = dependencies.entry(&from[..common]).or_default().entry(child).or_default();
                    of_child.insert(other.clone());
                }
            }
        }
        let mut circles = BTreeSet::new();
        for (parent, dependencies) in &dependencies {
            circles.extend(components(dependencies).into_iter().map(|children| (parent.join("/"), children)));
        }
        circles
    }
}

/// Strongly connected components of more than one node.
fn components(dependencies: &BTreeMap<&str, BTreeSet<String>>) -> BTreeSet<Vec<String>> {
    let reachable = |start: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(node) = open.pop() {
            let next = dependencies.get(node).into_iter().flatten();
            open.extend(next.filter(|&node| seen.insert(node.clone())).map(String::as_str));
        }
        seen
    };
    let reachable: BTreeMap<&str, BTreeSet<String>> =
        dependencies.keys().map(|&node| (node, reachable(node))).collect();
    let component = |(node, reached): (&&str, &BTreeSet<String>)| {
        let leads_back = |other: &String| reachable.get(&**other).is_some_and(|back| back.contains(*node));
        reached.iter().filter(|&other| leads_back(other)).cloned().collect::<Vec<_>>()
    };
    reachable.iter().map(component).filter(|component| component.len() > 1).collect()
}

/// `lora/run.rs` → `["lora", "run"]`, `lora/mod.rs` → `["lora"]`, `lib.rs` → `[]`
fn module_path(file: &Path) -> ModulePath {
    let path = file.with_extension("");
    let mut names: Vec<String> = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    names.pop_if(|name| name == "mod" || name == "lib");
    names
}

/// The code without comments and test modules, and the names of test modules that are files of their own. A test module
/// in the same file is the last thing in it.
fn without_tests(text: &str) -> (String, Vec<String>) {
    let (mut code, mut children) = (String::new(), Vec::new());
    let mut lines = text.lines().map(|line| line.split("//").next().unwrap());
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            let line = lines.next().unwrap();
            match line.split_once("mod ") {
                Some((_, name)) if name.ends_with(';') => {
                    children.push(name.trim_end_matches(';').to_owned());
                }
                Some(_) => break,
                None => {}
            }
        } else {
            code.push_str(line);
            code.push('\n');
        }
    }
    (code, children)
}

/// The identifier at the start of `text`, which may be empty.
fn identifier(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// All paths of `code` that start with `crate`, `super` or `self`, one for each item of a list in braces.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let continues = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !continues {
                found.extend(expand(&code[at..]).into_iter().map(|(path, _)| path));
            }
        }
    }
    found
}

/// Names that `use` brings into scope, and their paths.
fn names(code: &str) -> BTreeMap<String, Vec<String>> {
    let mut names = BTreeMap::new();
    for (at, statement) in code.match_indices("use ") {
        let before = code[..at].rsplit('\n').next().unwrap().trim();
        if before.is_empty() || before.starts_with("pub") {
            let tree = &code[at + statement.len()..];
            names.extend(expand(tree).into_iter().map(|(path, name)| (name, path)));
        }
    }
    names
}

/// The paths of a tree such as `a::{b, c::d as e}`, each with its name in scope.
fn expand(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim_start();
    let head = identifier(tree);
    let rest = &tree[head.len()..];
    let tails = match rest.strip_prefix("::") {
        Some(list) if list.starts_with('{') => {
            let items = top_level(&list[1..]).into_iter().filter(|item| !item.trim().is_empty());
            items.flat_map(expand).collect()
        }
        Some(tail) if identifier(tail).is_empty() => vec![(Vec::new(), String::new())],
        Some(tail) => expand(tail),
        None => {
            let name =
                rest.trim_start().strip_prefix("as ").map_or(head, |alias| identifier(alias.trim_start()));
            return vec![(vec![head.to_owned()], name.to_owned())];
        }
    };
    let joined = |(tail, name): (Vec<String>, String)| match tail.as_slice() {
        [last] if last == "self" => (vec![head.to_owned()], head.to_owned()),
        _ => ([&[head.to_owned()][..], &tail].concat(), name),
    };
    tails.into_iter().map(joined).collect()
}

#[test]
fn no_circles_between_modules() {
    let modules = Modules::parse(&sources());
    let mut report = String::new();
    for (parent, children) in modules.circles() {
        writeln!(report, "circle in {parent}: {children:?}").unwrap();
    }
    assert!(report.is_empty(), "\n{report}");
    eprintln!("{} modules, 0 circles", modules.0.len());
}

fn circles(files: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
    let files = files.iter().map(|&(file, text)| (PathBuf::from(file), text.to_owned())).collect();
    Modules::parse(&files).circles().into_iter().collect()
}

fn circle(parent: &str, children: &[&str]) -> (String, Vec<String>) {
    (parent.to_owned(), children.iter().map(|&child| child.to_owned()).collect())
}

#[test]
fn circles_are_found_in_folders_and_between_them() {
    let files = [
        ("lib.rs", "mod a;\nmod b;\nmod c;\npub use b::Thing;"),
        ("a/mod.rs", "mod one;\nmod two;"),
        ("a/one.rs", "use super::two::f;"),
        ("a/two.rs", "use std::fmt;\nfn g() { super::one::h() }"),
        ("b.rs", "use crate::c;\nuse crate::{a::{one::h, two::g}, Error};"),
        ("c.rs", "type T = crate::Thing;"),
    ];
    assert_eq!(circles(&files), [circle("", &["b", "c"]), circle("a", &["one", "two"])]);
    assert_eq!(circles(&files[..5]), [circle("a", &["one", "two"])]);
}

#[test]
fn re_exported_items_count_for_the_file_that_defines_them() {
    let files = [
        ("a/mod.rs", "mod one;\nmod two;\npub(crate) use one::{\n    f,\n    g as h,\n};\npub use two::*;"),
        ("a/one.rs", "use super::two::T;"),
        ("a/two.rs", "use super::h;"),
    ];
    assert_eq!(circles(&files), [circle("a", &["one", "two"])]);
}

#[test]
fn parents_and_tests_close_no_circle() {
    let files = [
        ("a/mod.rs", "mod one;\nmod two;\n#[cfg(test)]\nmod fixture;\nstruct S;\nfn f() { one::g() }"),
        (
            "a/one.rs",
            "use super::S;\n// use super::two;\n#[cfg(test)]\nmod tests {\n    use super::super::two;\n}",
        ),
        ("a/two.rs", "use super::one::g;\nuse super::S;"),
        ("a/fixture.rs", "use super::two;"),
        ("a/two/inner.rs", "use super::super::one;"),
    ];
    assert_eq!(circles(&files), []);
}

#[test]
fn paths_are_expanded() {
    let found: Vec<String> = expand("a::{self, b::{c as d, E,}, f::*}")
        .into_iter()
        .map(|(path, name)| path.join("::") + " " + &name)
        .collect();
    assert_eq!(found, ["a a", "a::b::c d", "a::b::E E", "a::f "]);
}
