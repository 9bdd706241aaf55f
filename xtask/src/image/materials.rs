//! The bill of materials: the components of the binary, as SPDX 2.3
//! (<https://spdx.github.io/spdx-spec/v2.3/>).
//!
//! This is own code, because existing tools write a random id and the current time:
//! docs/decisions/0012-image.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Program;
use crate::machine;

/// The bill of materials of a program, for a target, a commit and the commit's date.
pub(super) fn of(program: Program, target: &str, revision: &str, date: &str) -> Result<String> {
    let mut cargo = machine::cargo();
    cargo.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", target]);
    let metadata =
        serde_json::from_str(&machine::output(&mut cargo)?).context("cargo's metadata are no JSON")?;
    let lock = machine::workspace()?.join("Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let rustc = machine::output(Command::new("rustc").arg("--version").current_dir(machine::workspace()?))?;
    // `rustc 1.95.0 (59807616e 2026-04-14)`
    let rust = rustc.split(' ').nth(1).context("rustc does not tell its version")?;
    let document = document(program, &metadata, &lock, rust, &format!("{revision}-{target}"), date)?;
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn document(
    program: Program,
    metadata: &Value,
    lock: &str,
    rust: &str,
    build: &str,
    date: &str,
) -> Result<Value> {
    let checksums = checksums(lock)?;
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).map(|each| (text(&each["id"]), each)).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).map(|each| (text(&each["id"]), each)).collect();
    let named = |name: &str| {
        let own = |(_, package): &(&&str, &&Value)| package["name"] == name && package["source"].is_null();
        packages.iter().find(own).map(|(id, _)| *id).with_context(|| format!("the workspace has no {name}"))
    };
    let root = named(program.package)?;
    let embedded = program.embedded.map(named).transpose()?;

    let mut described = vec![
        library("rust-std", Some(rust), "MIT OR Apache-2.0", "The standard library of Rust"),
        library("musl", None, "MIT", "The C library that comes with that release of Rust"),
    ];
    let root_id = spdx_id(packages[root]);
    let mut relations = vec![
        relation("SPDXRef-DOCUMENT", "DESCRIBES", &root_id),
        relation(&root_id, "STATIC_LINK", "SPDXRef-Library-rust-std"),
        relation(&root_id, "STATIC_LINK", "SPDXRef-Library-musl"),
    ];
    relations.extend(embedded.map(|id| relation(&root_id, "CONTAINS", &spdx_id(packages[id]))));
    let mut open: Vec<_> = [root].into_iter().chain(embedded).collect();
    let mut seen: BTreeSet<&str> = open.iter().copied().collect();
    while let Some(id) = open.pop() {
        let package = packages.get(id).with_context(|| format!("cargo does not describe {id}"))?;
        let key = (text(&package["name"]).to_owned(), text(&package["version"]).to_owned());
        described.push(crate_package(package, checksums.get(&key)));
        for dependency in list(&nodes[id]["deps"]).filter(|dependency| is_linked(dependency)) {
            let other = text(&dependency["pkg"]);
            let found = packages.get(other).with_context(|| format!("cargo does not describe {other}"))?;
            // A proc macro runs in the compiler and is not in the binary.
            if list(&found["targets"]).any(|target| target["kind"][0] == "proc-macro") {
                continue;
            }
            relations.push(relation(&spdx_id(package), "DEPENDS_ON", &spdx_id(found)));
            if seen.insert(other) {
                open.push(other);
            }
        }
    }
    described.sort_by_key(|package| text(&package["SPDXID"]).to_owned());
    relations.sort_by_key(ToString::to_string);
    let version = text(&packages[root]["version"]);
    Ok(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{}-{version}", program.name),
        "documentNamespace": format!("https://spdx.org/spdxdocs/{}-{version}-{build}", program.name),
        "creationInfo": { "created": date, "creators": ["Tool: tapio-xtask"] },
        "packages": described,
        "relationships": relations,
    }))
}

/// SHA-256 of each crate's source, by name and version.
fn checksums(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    #[derive(serde::Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).context("Cargo.lock is not as expected")?;
    let checked = |package: Package| Some(((package.name, package.version), package.checksum?));
    Ok(lock.package.into_iter().filter_map(checked).collect())
}

fn crate_package(package: &Value, checksum: Option<&String>) -> Value {
    let (name, version) = (text(&package["name"]), text(&package["version"]));
    // Before SPDX had expressions, Cargo used a slash for `OR`.
    let license = package["license"].as_str().map_or("NOASSERTION".to_owned(), |license| {
        license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ")
    });
    let mut described = json!({
        "SPDXID": spdx_id(package),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": license,
        "copyrightText": "NOASSERTION",
    });
    if let Some(checksum) = checksum {
        described["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": checksum }]);
        described["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")),
        }]);
    }
    described
}

fn library(name: &str, version: Option<&str>, license: &str, summary: &str) -> Value {
    let mut described = json!({
        "SPDXID": format!("SPDXRef-Library-{name}"),
        "name": name,
        "summary": summary,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": license,
        "copyrightText": "NOASSERTION",
    });
    if let Some(version) = version {
        described["versionInfo"] = json!(version);
    }
    described
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// Letters, digits, `.` and `-` are allowed.
fn spdx_id(package: &Value) -> String {
    let name = format!("{}-{}", text(&package["name"]), text(&package["version"]));
    format!("SPDXRef-Package-{}", name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-"))
}

/// Whether a dependency is linked: not only for a build script or for tests.
fn is_linked(dependency: &Value) -> bool {
    list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{AGENT, SERVER};
    use super::*;

    const ROOT: &str = "tapio-agent";
    const EMBEDDED: &str = "tapio-ebpf";

    #[test]
    fn what_is_in_the_binary_and_nothing_else() -> Result<()> {
        let package = |name: &str, source: Option<&str>, kind: &str| {
            json!({
                "id": name, "name": name, "version": "1.0.0+x", "source": source,
                "license": "MIT / Apache-2.0", "targets": [{ "kind": [kind] }],
            })
        };
        let to = |name: &str, kind: Option<&str>| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let node = |name: &str, deps: &[Value]| json!({ "id": name, "deps": deps });
        let registry = Some("registry");
        let metadata = json!({
            "packages": [
                package(ROOT, None, "bin"), package(EMBEDDED, None, "bin"), package("linked_one", registry, "lib"),
                package("deep", registry, "lib"), package("script", registry, "lib"), package("tests", registry, "lib"),
                package("macro", registry, "proc-macro"), package("syn", registry, "lib"),
            ],
            "resolve": { "nodes": [
                node(ROOT, &[
                    to("linked_one", None), to("script", Some("build")), to("tests", Some("dev")), to("macro", None),
                ]),
                node(EMBEDDED, &[to("linked_one", None)]),
                node("linked_one", &[to("deep", None)]),
                node("deep", &[]), node("macro", &[to("syn", None)]),
            ] },
        });
        let lock = "[[package]]\nname = \"deep\"\nversion = \"1.0.0+x\"\nchecksum = \"abc\"\n";
        let document = document(AGENT, &metadata, lock, "1.95.0", "0123-target", "2026-11-18T11:06:40Z")?;
        let names: BTreeSet<_> = list(&document["packages"]).map(|package| text(&package["name"])).collect();
        assert_eq!(names, BTreeSet::from([ROOT, EMBEDDED, "linked_one", "deep", "rust-std", "musl"]));
        let Some(deep) = list(&document["packages"]).find(|package| package["name"] == "deep") else {
            anyhow::bail!("no deep in {document:#}");
        };
        assert_eq!(deep["checksums"][0]["checksumValue"], "abc");
        assert_eq!(deep["licenseDeclared"], "MIT OR Apache-2.0");
        assert_eq!(deep["externalRefs"][0]["referenceLocator"], "pkg:cargo/deep@1.0.0%2Bx");
        assert!(list(&document["relationships"]).any(|relation| relation
            == &self::relation(
                "SPDXRef-Package-linked-one-1.0.0-x",
                "DEPENDS_ON",
                "SPDXRef-Package-deep-1.0.0-x"
            )));
        Ok(())
    }

    #[test]
    fn the_server_has_no_kernel_programs() -> Result<()> {
        let written = of(SERVER, "x86_64-unknown-linux-musl", "0123", "2026-11-18T11:06:40Z")?;
        let document: Value = serde_json::from_str(&written)?;
        let names: BTreeSet<_> = list(&document["packages"]).map(|package| text(&package["name"])).collect();
        assert!(names.contains("redb") && names.contains("tapio-ahti"), "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with("aya") || *name == EMBEDDED), "{names:?}");
        assert!(text(&document["name"]).starts_with("tapio-server-"), "{}", document["name"]);
        Ok(())
    }
}
