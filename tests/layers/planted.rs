//! The checks themselves, shown to fail on what they are for.

use super::imports::{Kind, imports};
use super::lexer::{tokens, without_unit_tests};
use super::order::{against_order, circles};
use super::size::functions;
use super::tree::Tree;

const ORDER: [&str; 3] = ["low", "middle", "high"];

/// A tree in order, with one of its files as it is given.
fn planted(file: &str, source: &str) -> Tree {
    let mut files = vec![
        ("lib.rs", "mod low;\nmod middle;\npub mod high;\npub use high::{Thing, parts::Part};\npub use faer;\n"),
        ("low.rs", "use std::fmt;\npub struct Number;\npub enum Kind {}\n"),
        ("middle/mod.rs", "mod deep;\nmod flat;\npub use deep::Deep;\npub struct Own;\n"),
        ("middle/deep.rs", "use crate::low::Number;\nuse super::flat::Flat;\npub struct Deep(Number, Flat);\n"),
        ("middle/flat.rs", "pub struct Flat;\n"),
        ("high/mod.rs", "mod parts;\npub use parts::Part;\npub struct Thing(parts::Part);\n"),
        ("high/parts.rs", "use crate::middle::{Deep, Own};\npub struct Part(Deep, Own);\n"),
    ];
    files.retain(|(name, _)| *name != file);
    files.push((file, source));
    Tree::new(files)
}

#[track_caller]
fn against(file: &str, source: &str) -> Vec<String> {
    against_order(&planted(file, source), &ORDER, &[])
}

#[test]
fn a_tree_in_order_passes() {
    let tree = planted("middle/flat.rs", "pub struct Flat;\n");
    assert_eq!(against_order(&tree, &ORDER, &[]), [""; 0]);
    assert_eq!(circles(&tree), [""; 0]);
    assert_eq!(tree.root_names().into_iter().collect::<Vec<_>>(), ["Part", "Thing"]);
    assert_eq!(tree.edges().len(), 5, "{:?}", tree.edges());
}

#[test]
fn a_wrong_import_is_found() {
    let expected = "middle/flat.rs:2: `middle` imports `high`, which is not below it";
    assert_eq!(against("middle/flat.rs", "\nuse crate::high::Thing;\n"), [expected]);
    assert_eq!(against("middle/flat.rs", "\npub use crate::high::Thing;\n"), [expected]);
    assert_eq!(against("middle/flat.rs", "\nuse super::super::high::Thing as Other;\n"), [expected]);
    // In the code, in a signature, in a macro.
    assert_eq!(against("middle/flat.rs", "fn f() {\nlet x = crate::high::Thing; }\n"), [expected]);
    assert_eq!(against("middle/flat.rs", "fn f(\nx: &crate::high::Thing) {}\n"), [expected]);
    assert_eq!(against("middle/flat.rs", "\nfn f() { println!(\"{}\", crate::high::thing()) }\n"), [expected]);
    // Past the room, by a name at the root.
    assert_eq!(against("middle/flat.rs", "\nuse crate::Thing;\n"), [expected]);
}

#[test]
fn an_import_over_several_lines_is_found() {
    let source = "use crate::{\n    low,\n    high::{\n        self,\n        parts::{Part as P, *},\n    },\n};\n";
    let found = against("middle/flat.rs", source);
    assert_eq!(found.len(), 2, "{found:?}");
    let paths: Vec<_> =
        imports(&tokens("use crate::{a, b::{c, d}};")).into_iter().map(|one| one.path.join("::")).collect();
    assert_eq!(paths, ["crate::a", "crate::b::c", "crate::b::d"]);
    let renamed = &imports(&tokens("pub(crate) use crate::{\na::{self as x},\n};"))[0];
    assert_eq!((renamed.path.join("::"), renamed.name.as_str(), renamed.line), ("crate::a".to_owned(), "x", 2));
    assert_eq!(renamed.kind, Kind::Public);
}

#[test]
fn rooms_without_a_place_and_rooms_kept_apart_are_found() {
    let tree = planted("new.rs", "");
    assert_eq!(against_order(&tree, &ORDER, &[]), ["room `new` has no place in the order"]);
    let found = against_order(&planted("low.rs", ""), &ORDER, &[("middle", "high")]);
    assert_eq!(found.len(), 2, "{found:?}");
    let found = against("middle/flat.rs", "fn f() { crate::anything!(); }");
    assert_eq!(found, ["middle/flat.rs:1: `middle` imports from the root of the crate; name the room"]);
}

#[test]
fn a_circle_is_found() {
    // Between rooms, also where the order has nothing to say.
    let tree = planted("low.rs", "use crate::high::Thing;\n");
    let found = circles(&tree);
    assert!(found.len() == 1 && found[0].contains("low -> high (low.rs:1)"), "{found:?}");
    // Between two files of a room.
    let tree = planted("middle/flat.rs", "use super::deep::Deep;\n");
    let found = circles(&tree);
    assert!(found.len() == 1 && found[0].contains("middle::deep -> middle::flat"), "{found:?}");
    // The same by a name that the room passes on.
    assert_eq!(circles(&planted("middle/flat.rs", "use super::Deep;\n")).len(), 1);
    assert_eq!(circles(&planted("middle/flat.rs", "use crate::middle::Deep;\n")).len(), 1);
    // What a module defines itself is its own; what it declares and passes on is not.
    assert_eq!(circles(&planted("high/parts.rs", "use super::Thing;\n")).len(), 1);
    assert_eq!(circles(&planted("middle/flat.rs", "use super::Own;\n")), [""; 0]);
    let three = Tree::new([
        ("a/mod.rs", "mod b; mod c; mod d;"),
        ("a/b.rs", "use super::c;"),
        ("a/c.rs", "fn f() { super::d::g() }"),
        ("a/d.rs", "use crate::a::b::B;"),
    ]);
    assert_eq!(
        circles(&three),
        ["a circle: a::b -> a::c (a/b.rs:1), a::c -> a::d (a/c.rs:1), a::d -> a::b (a/d.rs:1)"]
    );
}

#[test]
fn comments_texts_and_unit_tests_import_nothing() {
    for source in [
        "//! [`crate::high::Thing`]\n/// use crate::high;\n/* use crate::high; /* and */ use crate::high; */",
        "fn f() { let x = \"use crate::high::Thing; \\\" crate::high::Thing\"; }",
        "fn f() { let x = r#\"\" crate::high::Thing\"#; let y = ('\"', '\\'', b'\"'); }",
        "#[cfg(test)]\n#[allow(unused)]\nmod tests { use crate::high::Thing; fn f() {} }",
        "#[cfg(test)]\nuse crate::high::Thing;\nstruct Flat;",
        "fn f<'a>(x: &'a str) { other::crate_high(x); self.high::<u8>(); }",
    ] {
        assert_eq!(against("middle/flat.rs", source), [""; 0], "{source}");
        let after = format!("{source}\nuse crate::high::Thing;");
        assert_eq!(against("middle/flat.rs", &after).len(), 1, "{after}");
    }
    assert_eq!(without_unit_tests(&tokens("#[cfg(test)] mod a { mod b {} } mod c;")).len(), 3);
}

#[test]
fn functions_are_measured() {
    let source = "fn a() {}\nfn b<T>(\n    x: [u8; 2],\n) -> fn(u8)\nwhere T: Copy {\n    // {\n    \"}\";\n}\ntrait C { fn d(); }\n";
    let found: Vec<_> = functions(source).into_iter().map(|one| (one.name, one.line, one.lines)).collect();
    assert_eq!(found, [("a".to_owned(), 1, 1), ("b".to_owned(), 2, 7)]);
}
