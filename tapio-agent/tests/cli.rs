//! The command line as a user meets it: accepted input, refused input, the error messages and the exit codes.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "clippy takes the helpers of a test for production code"
)]

use std::{ffi::OsString, fs, process::ExitCode};

use tapio_agent::{
    cli::{self, Command, Error},
    config::{Config, Output},
};

fn tapio_in(environment: &[(&str, &str)], arguments: &[&str]) -> Result<Command, Error> {
    let arguments = ["tapio"].iter().chain(arguments).map(OsString::from);
    cli::parse(arguments, environment.iter().map(|(name, value)| (name.into(), value.into())))
}

fn tapio(arguments: &[&str]) -> Result<Command, Error> {
    tapio_in(&[], arguments)
}

fn run(arguments: &[&str]) -> Config {
    match tapio(arguments) {
        Ok(Command::Run(config)) => *config,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn refused(arguments: &[&str]) -> String {
    let error = tapio(arguments).expect_err(&arguments.join(" "));
    assert_eq!(error.report(), ExitCode::from(2), "{error}");
    error.to_string()
}

#[test]
fn without_arguments_it_runs_with_the_defaults() {
    assert_eq!(run(&[]), Config::default());
}

#[test]
fn every_flag_sets_its_key() {
    let config = run(&[
        "--observer=network",
        "--node-name=node-a",
        "--cluster=prod",
        "--polku=polku:50051,spare:50051",
        "--polku-ca=/ca",
        "--polku-cert=/cert",
        "--polku-key=/key",
        "--otlp=http://collector:4318",
        "--output=json",
        "--state-dir=/s",
        "--listen=off",
        "--log-level=debug",
        "--log-format=json",
    ]);
    let expected = "observers: network\nnode_name: node-a\ncluster: prod\npolku: {endpoint: [polku:50051, spare:50051], ca: /ca, cert: /cert, key: /key}\n\
                    otlp: {endpoint: \"http://collector:4318\"}\noutput: json\nstate_dir: /s\nlisten: off\nlog: {level: debug, format: json}\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tapio.yaml");
    fs::write(&file, expected).unwrap();
    assert_eq!(config, Config::of_file(&file).unwrap());
    assert_eq!(config.output(true), Output::Json);

    let file = file.display().to_string();
    let config = run(&["--config", &file, "--cluster=test"]);
    assert_eq!((config.cluster.get(), config.node_name.get()), (Some("test"), Some("node-a")));
}

#[test]
fn commands_take_the_same_settings() {
    assert!(
        matches!(tapio(&["doctor", "--polku=polku:1"]), Ok(Command::Doctor(d)) if d.config.polku.endpoint.all().len() == 1)
    );
    assert!(
        matches!(tapio(&["selftest", "--observer", "network"]), Ok(Command::Selftest(c)) if c.observers.named())
    );
}

#[test]
fn a_child_of_the_self_test_understands_its_parent_and_users_are_not_shown_it() {
    let part = ["fault", "give-up", "tapio-selftest-1-a", "198.18.0.9:9"];
    let Ok(Command::Fault(understood)) = tapio(&part) else { panic!("it is not understood") };
    assert_eq!((understood.role.as_str(), understood.arguments.len()), ("give-up", 2));
    let help = tapio(&["--help"]).unwrap_err().to_string();
    assert!(help.contains("selftest") && !help.contains("\n  fault"), "{help}");
}

#[test]
fn a_wrong_flag_is_refused_by_its_name() {
    for (argument, expected) in [
        (
            "--observer=netwrok",
            "--observer: unknown observer `netwrok`: did you mean `network`? Known: container, cpu, dns, health, link, network",
        ),
        ("--observer=network,network", "--observer: observer `network` is named twice: name it once"),
        (
            "--otlp=collector",
            "--otlp: `collector` has neither a scheme nor a port: write http://host:port, as in ",
        ),
        ("--polku=polku", "--polku: \"polku\" has no port: write host:port, as in "),
        ("--kubernetes=yes", "--kubernetes: unknown value `yes`. Known: auto, on, off"),
        ("--output=yaml", "--output: unknown value `yaml`. Known: auto, json, pretty, none"),
        ("--listen=9090", "--listen: `9090` is not ADDRESS:PORT such as 127.0.0.1:9090 or [::]:9090, or off"),
        ("--state-dir=x", "--state-dir: `x` is not a path that begins with /"),
        ("--log-level=inof", "--log-level: unknown value `inof`: did you mean `info`? Known: error, warn, "),
        (
            "--config=/nowhere.yaml",
            "/nowhere.yaml: cannot be read: No such file or directory (os error 2) (named by",
        ),
    ] {
        let error = refused(&[argument]);
        assert!(error.starts_with(expected), "{error}");
    }
    let twice = refused(&["--observer=network", "--observer=network"]);
    assert!(twice.starts_with("--observer: observer `network` is named twice"), "{twice}");
    assert!(refused(&["--lisetn=off"]).contains("'--listen'"));
    assert!(refused(&["docter"]).contains("'doctor'"));
    assert!(refused(&["--cluster=a", "doctor"]).contains("--cluster"));
}

#[test]
fn the_environment_counts_for_commands_that_need_settings_only() {
    let wrong = [("TAPIO_LISTEN", "x")];
    assert!(matches!(tapio_in(&wrong, &[]), Err(Error::Config(_))));
    assert!(matches!(tapio_in(&wrong, &["doctor"]), Err(Error::Config(_))));
    assert!(matches!(tapio_in(&wrong, &["config"]), Ok(Command::Print(_))));
    let Ok(Command::Print(schema)) = tapio_in(&wrong, &["config", "--schema"]) else { panic!("no schema") };
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let queue = &schema["properties"]["queue"];
    assert_eq!((&queue["type"], queue["minimum"].as_u64()), (&"integer".into(), Some(1)), "{queue}");
    assert!(matches!(tapio_in(&wrong, &["replay", "x.csv"]), Ok(Command::Replay(_))));
}

#[test]
fn config_prints_what_check_accepts() {
    let Ok(Command::Print(page)) = tapio(&["config"]) else { panic!("no page") };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tapio.yaml");
    fs::write(&path, &page).unwrap();
    let file = path.display().to_string();
    let Ok(Command::Print(said)) = tapio(&["config", "--check", &file]) else { panic!("not right") };
    assert_eq!(said, format!("{file}: ok\n"));
    fs::write(&path, page.replace("queue:", "queu:")).unwrap();
    let error = refused(&["config", "--check", &file]);
    assert!(
        error.starts_with(&file) && error.contains("unknown key `queu`: did you mean `queue`?"),
        "{error}"
    );
}

#[test]
fn help_says_what_there_is() {
    for (arguments, words) in [
        (&["-h"][..], &["--observer", "--polku", "--otlp", "doctor", "selftest", "Sinks:", "Operating:"][..]),
        (&["--help"], &["Examples:", "Exit codes:", "TAPIO_FOLD_WINDOW"]),
        (&["doctor", "--help"], &["Exit codes:", "--config"]),
        (&["config", "--help"], &["--check", "Exit codes:"]),
    ] {
        let error = tapio(arguments).expect_err("help");
        assert_eq!(error.report(), ExitCode::SUCCESS);
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    let lines = tapio(&["-h"]).unwrap_err().to_string().lines().count();
    assert!(lines <= 40, "-h has {lines} lines");
}
