//! The command line and its errors.

use std::{fs, process::Command};

use tempfile::tempdir;

use crate::{certificates::Authority, support::PROGRAM};

struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), error: text(output.stderr) }
}

#[test]
fn help_is_worth_reading() {
    for (flag, lines) in [
        ("-h", &["Receives facts from Tapio's agents and keeps them", "--polku-client-ca <FILE>"][..]),
        (
            "--help",
            &[
                "Examples:\n  tapio-server --state-dir=/tmp/tapio",
                "TAPIO_SERVER_JOURNAL_MAX_BYTES=10GiB",
                "Exit codes: 0 stopped by SIGTERM or SIGINT; 1 failed; 2 wrong arguments or configuration.",
                "--journal-max-age <TIME>",
                "[default: 0.0.0.0:50051]",
            ],
        ),
    ] {
        let help = run(&[flag], &[]);
        assert_eq!((help.code, help.error.as_str()), (Some(0), ""));
        for line in lines {
            assert!(help.out.contains(line), "{line}: {}", help.out);
        }
    }
    assert_eq!(run(&["--version"], &[]).out, format!("tapio-server {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_example_of_the_help_is_valid() {
    let help = run(&["--help"], &[]).out;
    let examples = help.split("Examples:").nth(1).unwrap().split("Settings:").next().unwrap();
    let directory = tempdir().unwrap();
    let mut seen = 0;
    for line in examples.lines().filter_map(|line| line.trim().strip_prefix("tapio-server --")) {
        let flags = format!("--{line}");
        let flags = flags.split("  ").next().unwrap();
        let mut arguments: Vec<_> = flags.split_whitespace().map(str::to_owned).collect();
        // With an address that cannot be bound it ends by itself, after the arguments were accepted.
        arguments.extend(["--listen=192.0.2.1:1", "--polku-listen=192.0.2.1:1"].map(str::to_owned));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let said = run(&arguments, &[("TMPDIR", directory.path().to_str().unwrap())]);
        assert_eq!(said.code, Some(1), "{flags}: {}", said.error);
        assert!(said.error.contains("cannot serve on 192.0.2.1:1"), "{flags}: {}", said.error);
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn outside_of_a_cluster_it_says_how_to_start() {
    let directory = tempdir().unwrap();
    let state = format!("--state-dir={}", directory.path().display());
    let said = run(&[&state, "--listen=off", "--polku-listen=127.0.0.1:0"], &[]);
    assert_eq!(said.code, Some(1), "{}", said.error);
    assert!(said.error.contains("ahti.auth: there is no cluster whose users may ask"), "{}", said.error);
    assert!(said.error.contains("--ahti-auth=none"), "{}", said.error);
}

#[test]
fn the_configuration_is_printed_and_checked() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("server.yaml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        run(&["config", "--check", file.to_str().unwrap()], &[])
    };
    let printed = run(&["config"], &[]).out;
    let checked = check(&printed);
    assert_eq!((checked.code, checked.error.as_str()), (Some(0), ""));
    assert!(checked.out.ends_with("server.yaml: ok\n"));
    for (text, expected) in [
        (
            "polku:\n  lissten: 0.0.0.0:1\n",
            "server.yaml:2:3: polku: unknown key `lissten`: did you mean `listen`?",
        ),
        (
            "journal:\n  max_bytes: 1MiB\n",
            "server.yaml:2:14: journal.max_bytes: `1MiB` is not a size from 64MiB",
        ),
        ("roles: portta\n", "server.yaml:1:8: roles: unknown role `portta`"),
        ("polku:\n  key: /k\n", "server.yaml: polku.key: needs polku.cert"),
    ] {
        let said = check(text);
        assert_eq!(said.code, Some(2), "{text}");
        assert!(said.error.contains(expected), "{expected}: {}", said.error);
    }
    let schema: serde_json::Value = serde_json::from_str(&run(&["config", "--schema"], &[]).out).unwrap();
    assert_eq!(schema["properties"]["polku"]["properties"]["streams"]["maximum"], 65_536);
}

#[test]
fn errors_before_it_is_ready_name_the_setting() {
    let directory = tempdir().unwrap();
    let state = format!("--state-dir={}", directory.path().join("state").display());
    let off = "--listen=off";
    let absent = directory.path().join("absent").display().to_string();
    let authority = Authority::new("ours");
    let [ours, theirs, other] = ["ours", "theirs", "other"].map(|name| directory.path().join(name));
    authority.issue("localhost", &ours, &other);
    authority.issue("localhost", &other, &theirs);
    let [ours, theirs] = [ours, theirs].map(|file| file.display().to_string());
    let mismatch = format!(
        "ahti.key: {theirs} is not the key of the certificate in {ours}: give ahti.cert and ahti.key"
    );
    for (arguments, code, expected) in [
        (vec!["--polku-listen=nowhere"], 2, "--polku-listen: `nowhere` is not ADDRESS:PORT"),
        (vec!["--polku-listen=192.0.2.1:1"], 1, "POLKU cannot listen on 192.0.2.1:1: give another address"),
        (vec!["--polku-listen=127.0.0.1:0", "--polku-token-file", &absent], 1, "polku.token_file: "),
        (
            vec!["--polku-listen=127.0.0.1:0", "--polku-cert", &absent, "--polku-key", &absent],
            1,
            "polku.cert: ",
        ),
        (
            vec!["--roles=ahti", "--ahti-auth=none", "--ahti-cert", &ours, "--ahti-key", &absent],
            1,
            "ahti.key: ",
        ),
        (
            vec!["--roles=ahti", "--ahti-auth=none", "--ahti-cert", &ours, "--ahti-key", &theirs],
            1,
            mismatch.as_str(),
        ),
        (vec!["--ahti-cert", &ours], 2, "ahti.cert: needs ahti.key (--ahti-key=FILE)"),
    ] {
        let said = run(&[&[off, &state], &arguments[..]].concat(), &[]);
        assert_eq!(said.code, Some(code), "{arguments:?}: {}", said.error);
        assert!(said.error.contains(expected), "{expected}: {}", said.error);
    }
    let said = run(&[off, "--state-dir=/proc/none"], &[]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.error.contains("the journal /proc/none/journal/facts.redb cannot be opened"),
        "{}",
        said.error
    );
    let said = run(&[], &[("TAPIO_SERVER_LISTN", "off")]);
    assert_eq!(said.code, Some(2));
    assert!(said.error.contains("did you mean `TAPIO_SERVER_LISTEN`?"), "{}", said.error);
}
