"""Licences, sources and Rust versions of all dependencies, from `cargo metadata` on standard input.

Stands in for `cargo deny check licenses bans sources` where that is not installed: the same `deny.toml`, fewer checks.
"""

import json
import re
import sys
import tomllib


def allowed(expression, licences):
    """Whether an SPDX expression can be met with some licences. `/` is the old way to write `OR`."""
    words = re.findall(r"\(|\)|[^\s()/]+|/", expression)

    def any_of():
        met = all_of()
        while words and words[0] in ("OR", "/"):
            words.pop(0)
            other = all_of()
            met = met or other
        return met

    def all_of():
        met = one()
        while words and words[0] == "AND":
            words.pop(0)
            other = one()
            met = met and other
        return met

    def one():
        word = words.pop(0)
        if word == "(":
            met = any_of()
            words.pop(0)
            return met
        if words and words[0] == "WITH":
            word = f"{word} WITH {words[1]}"
            del words[:2]
        return word in licences

    return any_of()


def version(text):
    return tuple(map(int, (text + ".0.0").split(".")[:3]))


def main():
    # The evaluation itself, on expressions whose answers are known.
    known = [("MIT OR GPL-3.0", True), ("MIT AND GPL-3.0", False), ("(MIT OR GPL-3.0) AND ISC", True), ("GPL-3.0/MIT", True)]
    known += [("MIT WITH x", False), ("ISC WITH y", True), ("GPL-3.0 OR ISC WITH y", True), ("ISC WITH y AND GPL-3.0", False)]
    assert all(allowed(expression, {"MIT", "ISC", "ISC WITH y"}) == answer for expression, answer in known)
    with open("deny.toml", "rb") as file:
        rules = tomllib.load(file)
    with open("Cargo.toml", "rb") as file:
        manifest = tomllib.load(file)
    ours = manifest["package"]["rust-version"]
    if not isinstance(ours, str):
        ours = manifest["workspace"]["package"]["rust-version"]
    licences, registries = set(rules["licenses"]["allow"]), set(rules["sources"]["allow-registry"])
    problems = []
    packages = json.load(sys.stdin)["packages"]
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if not package["license"] or not allowed(package["license"], licences):
            problems.append(f"{name}: licence {package['license']}")
        source = package["source"]
        if source is not None and source.removeprefix("registry+") not in registries:
            problems.append(f"{name}: source {source}")
        if package["rust_version"] and version(package["rust_version"]) > version(ours):
            problems.append(f"{name}: needs Rust {package['rust_version']}, ours is {ours}")
    print(f"{len(packages)} packages, {len(problems)} problems")
    sys.exit("\n".join(problems) or 0)


main()
