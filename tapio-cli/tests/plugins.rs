//! What others start the program with, and install it by: the plugins of k9s, the manifest of krew.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers fail as its assertions do")]

use std::{collections::BTreeMap, fs, process::Command};

use serde::Deserialize;

#[derive(Deserialize)]
struct Plugins {
    plugins: BTreeMap<String, Plugin>,
}

#[derive(Deserialize)]
struct Plugin {
    scopes: Vec<String>,
    args: Vec<String>,
}

#[test]
fn each_plugin_of_k9s_asks_as_the_program_understands() {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/k9s/plugins.yaml")).unwrap();
    let all: Plugins = serde_saphyr::from_str(&text).unwrap();
    for (name, plugin) in &all.plugins {
        let line = plugin.args[1].split(" | ").next().unwrap().strip_prefix("kubectl tapio ").unwrap();
        for scope in &plugin.scopes {
            let values = [
                ("$RESOURCE_NAME", scope.as_str()),
                ("$NAMESPACE", "shop"),
                ("$NAME", "x"),
                ("$CONTEXT", "c"),
            ];
            let filled =
                values.iter().fold(line.replace('"', ""), |line, (key, value)| line.replace(key, value));
            assert!(!filled.contains('$'), "{filled}");
            let output = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"))
                .args(filled.split(' '))
                .env("KUBECONFIG", "/nothing")
                .output()
                .unwrap();
            // It is understood, and there is no cluster.
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("there is no usable kubeconfig"), "{name}: {filled}: {said}");
        }
    }
    assert!(all.plugins.len() > 1);
}

/// The rest of it: `cargo xtask krew`.
#[test]
fn what_the_manifest_of_krew_shows_can_be_asked() {
    let template =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/krew/tapio.yaml")).unwrap();
    let manifest: serde_json::Value = serde_saphyr::from_str(&template).unwrap();
    let description = manifest["spec"]["description"].as_str().unwrap();
    let lines: Vec<&str> =
        description.lines().filter_map(|line| line.trim().strip_prefix("kubectl tapio ")).collect();
    assert!(lines.len() > 3 && description.lines().all(|line| line.len() <= 130), "{description}");
    for line in lines {
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"))
            .args(line.split(' '))
            .env("KUBECONFIG", "/nothing")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("there is no usable kubeconfig"), "{line}: {said}");
    }
}
