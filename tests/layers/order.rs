//! What is wrong with the imports of a tree.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Edge, Tree};

/// Imports against the order of the rooms, and rooms that have no place in it.
///
/// * `order`: the lowest room first
/// * `apart`: pairs of rooms that do not import each other
pub fn against_order(tree: &Tree, order: &[&str], apart: &[(&str, &str)]) -> Vec<String> {
    let mut problems = vec![];
    let rooms: BTreeSet<_> = tree.modules().filter_map(|module| module.first()).collect();
    problems.extend(
        rooms
            .iter()
            .filter(|room| !order.contains(&room.as_str()))
            .map(|room| format!("room `{room}` has no place in the order")),
    );
    for Edge { from, to, place } in tree.edges() {
        let Some(from) = from.first() else { continue };
        let Some(to) = to.first() else {
            problems.push(format!("{place}: `{from}` imports from the root of the crate; name the room"));
            continue;
        };
        let rank = |room: &String| order.iter().position(|one| one == room);
        let separate = apart.iter().any(|&(a, b)| (from == a && to == b) || (from == b && to == a));
        if from != to && (rank(to) >= rank(from) || separate) {
            problems.push(format!("{place}: `{from}` imports `{to}`, which is not below it"));
        }
    }
    problems
}

/// A circle of each set of files that import each other within a room, and of each set of rooms.
pub fn circles(tree: &Tree) -> Vec<String> {
    let edges = tree.edges();
    let (mut files, mut rooms) = (Graph::new(), Graph::new());
    for Edge { from, to, place } in &edges {
        let (Some(from_room), Some(to_room)) = (from.first(), to.first()) else { continue };
        if from_room == to_room {
            files.entry(from.join("::")).or_default().insert(to.join("::"), place.clone());
        } else {
            rooms.entry(from_room.clone()).or_default().insert(to_room.clone(), place.clone());
        }
    }
    [files, rooms].iter().flat_map(circles_of).collect()
}

/// Who imports whom, and where.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

fn circles_of(graph: &Graph) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut found = vec![];
    for start in graph.keys() {
        if seen.contains(start) {
            continue;
        }
        let Some(circle) = way_back(graph, start) else { continue };
        let places =
            circle.windows(2).map(|pair| format!("{} -> {} ({})", pair[0], pair[1], graph[&pair[0]][&pair[1]]));
        found.push(format!("a circle: {}", places.collect::<Vec<_>>().join(", ")));
        seen.extend(circle);
    }
    found
}

/// The shortest way from a node to itself.
fn way_back(graph: &Graph, start: &str) -> Option<Vec<String>> {
    let mut reached: BTreeMap<&str, &str> = BTreeMap::new();
    let mut ends = vec![start];
    while !ends.is_empty() {
        let mut further = vec![];
        for end in ends {
            for next in graph.get(end).into_iter().flat_map(BTreeMap::keys) {
                if next == start {
                    let mut way = vec![start.to_owned(), end.to_owned()];
                    while way.last().is_some_and(|last| last != start) {
                        way.push(reached[way[way.len() - 1].as_str()].to_owned());
                    }
                    way.reverse();
                    way.push(start.to_owned());
                    // Of a node that imports itself there is one step too many.
                    way.dedup();
                    return (way.len() > 1).then_some(way);
                }
                if !reached.contains_key(next.as_str()) {
                    reached.insert(next, end);
                    further.push(next.as_str());
                }
            }
        }
        ends = further;
    }
    None
}
