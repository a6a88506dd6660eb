//! The structure of the code: no circles between modules, no import from a lower layer of the relay to a verb, and no
//! long functions.
//!
//! Modules are files. A module and the modules inside it are one unit, and tests do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::Span;
use syn::visit::{self, Visit};

const CRATES: [&str; 10] = [
    "protocol",
    "relay",
    "functions/ingest",
    "functions/register",
    "functions/deliver",
    "functions/health",
    "local",
    "edge-agent",
    "bench",
    "fuzz",
];

const LONGEST_FUNCTION: usize = 70;

/// A module by its path from the root, which is empty.
type Module = Vec<String>;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Rust files in a directory and below it.
pub(crate) fn source_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn parse(file: &Path) -> syn::File {
    let text = fs::read_to_string(file).unwrap();
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn module_of(file: &Path, source: &Path) -> Module {
    let path = file.strip_prefix(source).unwrap().with_extension("");
    let parts = path.iter().map(|part| part.to_str().unwrap().to_owned());
    parts
        .filter(|part| part != "lib" && part != "main")
        .collect()
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().segments.iter().any(|s| s.ident == "test")
            || (attribute.path().is_ident("cfg")
                && (attribute.parse_args::<syn::Path>()).is_ok_and(|path| path.is_ident("test")))
    })
}

/// Collects the paths in a file, tests aside.
#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
    children: Vec<String>,
}

impl Paths {
    fn add_use(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |name: String| [prefix, &[name]].concat();
        match tree {
            syn::UseTree::Path(path) => {
                self.add_use(&with(path.ident.to_string()), &path.tree);
            }
            syn::UseTree::Name(name) => self.found.push(with(name.ident.to_string())),
            syn::UseTree::Rename(rename) => self.found.push(with(rename.ident.to_string())),
            syn::UseTree::Glob(_) => self.found.push(prefix.to_vec()),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(prefix, tree);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_test(&item.attrs) {
            return;
        }
        if item.content.is_none() {
            self.children.push(item.ident.to_string());
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        self.found
            .push(segments.map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

/// The modules that each module of a crate imports.
fn imports(member: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let source = root().join(member).join("src");
    let files = source_files(&source);
    let modules: BTreeSet<_> = files.iter().map(|file| module_of(file, &source)).collect();
    let mut imports = BTreeMap::new();
    for file in &files {
        let module = module_of(file, &source);
        let mut paths = Paths::default();
        paths.visit_file(&parse(file));
        let targets = (paths.found.iter())
            .filter_map(|path| resolve(path, &module, &paths.children))
            .map(|mut target| {
                while !modules.contains(&target) {
                    target.pop();
                }
                target
            })
            .filter(|target| !target.starts_with(&module) && !module.starts_with(target));
        imports.insert(module.clone(), targets.collect());
    }
    imports
}

/// The absolute path of a path in `module`, if it begins in this crate.
fn resolve(path: &[String], module: &Module, children: &[String]) -> Option<Module> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module.as_slice(), rest].concat()),
        "super" => {
            let (_, parent) = module.split_last()?;
            resolve_super(rest, &parent.to_vec())
        }
        _ if children.contains(first) => Some([module.as_slice(), path].concat()),
        _ => None,
    }
}

fn resolve_super(rest: &[String], parent: &Module) -> Option<Module> {
    match rest.split_first() {
        Some((first, rest)) if first == "super" => {
            let (_, parent) = parent.split_last()?;
            resolve_super(rest, &parent.to_vec())
        }
        _ => Some([parent.as_slice(), rest].concat()),
    }
}

/// The modules that can be reached from a module.
fn reachable(imports: &BTreeMap<Module, BTreeSet<Module>>, from: &Module) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    let mut left = vec![from.clone()];
    while let Some(module) = left.pop() {
        for target in imports.get(&module).into_iter().flatten() {
            if found.insert(target.clone()) {
                left.push(target.clone());
            }
        }
    }
    found
}

#[test]
fn no_module_imports_itself_by_way_of_others() {
    for member in CRATES {
        let imports = imports(member);
        let circular: Vec<_> = (imports.keys())
            .filter(|module| reachable(&imports, module).contains(*module))
            .map(|module| module.join("::"))
            .collect();
        assert!(circular.is_empty(), "`{member}`: {circular:?}");
    }
}

#[test]
fn the_lower_layers_of_the_relay_import_no_verb() {
    let verbs = ["ingest", "register", "deliver", "health", "mailbox"];
    let lower = [
        "table", "queue", "linear", "outbound", "egress", "outcome", "policy", "worker",
        "delivery", "event", "aws", "metrics",
    ];
    for (module, targets) in imports("relay") {
        let first = module.first().map_or("", String::as_str);
        if !lower.contains(&first) {
            continue;
        }
        for target in targets {
            let first = target.first().map_or("", String::as_str);
            let (module, target) = (module.join("::"), target.join("::"));
            assert!(!verbs.contains(&first), "`{module}` imports `{target}`");
        }
    }
}

#[test]
fn the_graph_is_read_as_it_is() {
    let imports = imports("relay");
    let module = |path: &[&str]| -> Module { path.iter().map(|p| (*p).to_owned()).collect() };
    assert!(imports[&module(&["register"])].contains(&module(&["mailbox"])));
    assert!(imports[&module(&["table", "workers"])].contains(&module(&["table", "worker_key"])));
    assert!(imports[&module(&["deliver", "group"])].contains(&module(&["policy"])));
}

/// Collects the functions that are too long, tests aside.
struct LongFunctions {
    file: String,
    found: Vec<String>,
}

impl LongFunctions {
    fn check(&mut self, name: &syn::Ident, whole: Span, end: Span) {
        let lines = end.end().line - whole.start().line + 1;
        if lines > LONGEST_FUNCTION {
            self.found
                .push(format!("{}: `{name}` has {lines} lines", self.file));
        }
    }
}

impl<'ast> Visit<'ast> for LongFunctions {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let span = item.sig.fn_token.span;
        self.check(&item.sig.ident, span, item.block.brace_token.span.close());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let span = item.sig.fn_token.span;
        self.check(&item.sig.ident, span, item.block.brace_token.span.close());
        visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn no_function_has_more_than_70_lines() {
    let mut found = Vec::new();
    for member in CRATES {
        for file in source_files(&root().join(member).join("src")) {
            let mut long = LongFunctions {
                file: file.strip_prefix(root()).unwrap().display().to_string(),
                found: Vec::new(),
            };
            long.visit_file(&parse(&file));
            found.extend(long.found);
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
