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

/// Krew's own rules for a manifest: `internal/index/validation` and the guide for developers.
#[test]
fn the_manifest_of_krew_is_one_once_it_is_filled_in() {
    let template =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/krew/tapio.yaml")).unwrap();
    let mut text = template;
    let sum = "0123456789abcdef".repeat(4);
    for (name, value) in [
        ("VERSION", env!("CARGO_PKG_VERSION")),
        ("HOMEPAGE", "https://tapio.example"),
        ("RELEASES", "https://tapio.example/releases"),
        ("SHA256_LINUX_AMD64", &sum),
        ("SHA256_LINUX_ARM64", &sum),
        ("SHA256_DARWIN_AMD64", &sum),
        ("SHA256_DARWIN_ARM64", &sum),
        ("SHA256_WINDOWS_AMD64", &sum),
    ] {
        let before = text.clone();
        text = text.replace(&format!("${{{name}}}"), value);
        assert_ne!(text, before, "{name} is not used");
    }
    assert!(!text.contains("${"), "{text}");
    let manifest: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let words = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(manifest["apiVersion"], "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!((&manifest["kind"], &manifest["metadata"]["name"]), (&"Plugin".into(), &"tapio".into()));
    let spec = &manifest["spec"];
    assert_eq!(spec["version"].as_str().unwrap().strip_prefix('v'), Some(env!("CARGO_PKG_VERSION")));
    let known = ["caveats", "description", "homepage", "platforms", "shortDescription", "version"];
    assert!(words(spec).iter().all(|word| known.contains(&&**word)), "{:?}", words(spec));
    let short = spec["shortDescription"].as_str().unwrap();
    // "less than 50 characters", one line, no full stop, without the plugin's name.
    assert!((1..50).contains(&short.len()) && !short.contains('\n') && !short.ends_with('.'), "{short}");
    let description = spec["description"].as_str().unwrap();
    assert!(description.lines().all(|line| line.len() <= 130), "{description}");
    let mut platforms = std::collections::BTreeSet::new();
    for platform in spec["platforms"].as_array().unwrap() {
        let labels = &platform["selector"]["matchLabels"];
        let [os, arch] = ["os", "arch"].map(|key| labels[key].as_str().unwrap());
        assert!(["linux", "darwin", "windows"].contains(&os) && ["amd64", "arm64"].contains(&arch));
        assert!(platforms.insert(format!("{os}-{arch}")), "{os}-{arch} is there twice");
        let uri = platform["uri"].as_str().unwrap();
        assert!(uri.starts_with("https://") && uri.contains(&format!("{os}-{arch}")), "{uri}");
        assert!(uri.ends_with(".tar.gz") || uri.ends_with(".zip"), "{uri}");
        let sum = platform["sha256"].as_str().unwrap();
        assert!(sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        let bin = platform["bin"].as_str().unwrap();
        let files = platform["files"].as_array().unwrap();
        let is_there = |name: &str| files.iter().any(|file| file["from"] == name && file["to"] == ".");
        assert!(is_there(bin) && is_there("LICENSE"), "{platform}");
        assert_eq!(bin, format!("kubectl-tapio{}", if os == "windows" { ".exe" } else { "" }));
    }
    assert_eq!(platforms.len(), 5);
    // What it shows can be asked.
    for line in description.lines().filter_map(|line| line.trim().strip_prefix("kubectl tapio ")) {
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-tapio"))
            .args(line.split(' '))
            .env("KUBECONFIG", "/nothing")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("there is no usable kubeconfig"), "{line}: {said}");
    }
}
