//! Tapio's own tasks: `cargo xtask --help`.

#![forbid(unsafe_code)]

mod arch;
mod axe;
mod bench;
mod budget;
mod ci;
mod executable;
mod go;
mod image;
mod kernel_test;
mod krew;
mod kube;
mod machine;
mod otelcol;
mod portable;
mod progress;
mod python;
mod run;
mod scenarios;
mod setup;
mod tally;
mod test;
mod toolchain;

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail};

/// A task of the command line.
struct Task {
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<()>,
}

const TASKS: &[Task] = &[
    Task {
        name: "setup",
        arguments: "[--route=rustup|debian] [--ci]",
        about: "Install what building and testing need; what is there is left alone.\n\
                --route forces one way to the kernel programs' compiler;\n\
                --ci adds what only `ci` needs",
        run: setup::task,
    },
    Task {
        name: "run",
        arguments: "[-- ARGUMENTS]",
        about: "Set up, build and run Tapio on this host with readable output.\n\
                Only Tapio itself runs as root, by sudo where needed",
        run: run::task,
    },
    Task {
        name: "test",
        arguments: "[FILTER]",
        about: "Set up and run every test, or those with FILTER in their names.\n\
                Only the kernel tests run as root, by sudo where needed; without it they are skipped",
        run: test::task,
    },
    Task {
        name: "kernel-test",
        arguments: "[VERSION...] [--arch=amd64|arm64] [--boot=NAME] [--test=FILTER,...] [--quick] [--update] [--bless]",
        about: "Set up and run the kernel tests on the kernels that users run, in virtual machines: all of the\n\
                matrix, or these versions (6.1, 6.12.95, newest). Needs no root once QEMU is there.\n\
                --boot runs one way to boot only: plain, lockdown-integrity, lockdown-confidentiality,\n\
                cgroup-v1, cgroup-hybrid or pmu (arm64); --test those tests with FILTER in their names;\n\
                --quick takes the oldest and the newest kernel and most of the tests, as `ci` does;\n\
                --update downloads the kernels anew; --bless keeps what `tapio doctor` says as expected",
        run: kernel_test::task,
    },
    Task {
        name: "kube",
        arguments: "build [PROGRAM...] | apiserver up [DIR]|down DIR | cluster up|down|exec ...|load ... | image ...",
        about: "A real Kubernetes on this machine, built from pinned Go modules (Go 1.26; 6 min, once) into\n\
                KUBEBUILDER_ASSETS or the cache. `apiserver up` starts an API server and prints an admin's\n\
                kubeconfig, as many as are wanted; `cluster up`, as root, a cluster of one node in namespaces\n\
                of its own. `image NAME:TAG DIR COMMAND... >ARCHIVE` makes an image that `cluster load` takes",
        run: kube::task,
    },
    Task {
        name: "image",
        arguments: "[agent|server] [--arch=amd64|arm64] [--tag=NAME:TAG] [--output=ARCHIVE]",
        about: "The agent or the server alone, linked statically, as a container image with its bill of materials: an OCI archive\n\
                that `kube cluster load`, `docker load` and `skopeo copy` take. By Docker where one writes such\n\
                archives, else by buildah. The same commit and compilers give the same digest, which is printed",
        run: image::task,
    },
    Task {
        name: "krew",
        arguments: "--homepage=URL --releases=URL [--arch=amd64|arm64] [--output=DIR]",
        about: "`kubectl tapio` for krew: an archive of the plugin for Linux of both architectures or of one, linked statically, and\n\
                the manifest that krew installs it by, for all archives that are in DIR: those of other systems may be put\n\
                there before. The same commit and compilers give the same archives",
        run: krew::task,
    },
    Task {
        name: "scenarios",
        arguments: "[NAME...] [--variants] [--keep] [--record]",
        about: "Failures for real, one after the other, and what Tapio says about each: all of scenarios/*.yaml, with\n\
                --variants each at another service and another time, too, or these. On the cluster of `kube`, as root, which is started if it is not up; --keep leaves it up, with\n\
                everything in it. --record writes the facts of each to tapio-ahti/tests/recorded. Exits with 1 if an\n\
                answer is wrong: docs/scenarios.md",
        run: scenarios::task,
    },
    Task {
        name: "otelcol",
        arguments: "build",
        about: "An OpenTelemetry Collector for the tests, built from pinned Go modules (Go 1.26) into OTELCOL or the\n\
                cache. Prints its path",
        run: otelcol::task,
    },
    Task {
        name: "bench",
        arguments: "[NAME...] | rca [--dir=DIR] [--without=PART,...] [SET...]",
        about: "Set up and run the benches, all or these: one `name value unit` a line on stdout. `rca`: how often the engine\n\
                finds the cause in published sets of failures, which have to be unpacked in target/rca or DIR:\n\
                docs/accuracy.md",
        run: bench::task,
    },
    Task {
        name: "ci",
        arguments: "[--nightly] [STEP...]",
        about: "Everything a change must pass: format, lints, licences, advisories, tests, other kernels, a real\n\
                cluster; or these steps of it: \"format\", \"cluster\". --nightly: what takes hours instead, such as\n\
                the shipped images of both architectures, all kernels and boots, ten minutes of chaos",
        run: ci::task,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match perform(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        bail!("no task given\n\n{}", help());
    };
    let wants_help = |argument: &String| argument == "--help" || argument == "-h";
    let own = rest.split(|argument| argument == "--").next().unwrap_or_default();
    if wants_help(name) || name == "help" || own.iter().any(wants_help) {
        println!("{}", help());
        return Ok(());
    }
    match TASKS.iter().find(|task| task.name == name) {
        Some(task) => (task.run)(rest),
        None => bail!("there is no task `{name}`\n\n{}", help()),
    }
}

fn help() -> String {
    let mut text = String::from("Usage: cargo xtask TASK\n");
    for task in TASKS {
        text.push_str(&format!("\n  {}\n", format!("{} {}", task.name, task.arguments).trim_end()));
        for line in task.about.lines() {
            text.push_str(&format!("      {line}\n"));
        }
    }
    text
}
