//! How often the engine finds the cause, on failures whose causes are known: `cargo xtask bench rca`.
//!
//! A set of cases is turned into facts in this project's own words, and the engine with its own rules explains them. What a set
//! says about the cause is read for scoring alone. `docs/accuracy.md` has the method and the figures.

#![allow(clippy::panic, missing_docs, reason = "a bench's helpers fail as tests do")]

mod calibrate;
mod case;
mod changerca;
mod cloudopsbench;
mod describe;
mod facts;
mod files;
mod itbench;
mod labels;
mod nezha;
mod petshop;
mod recorded;
mod score;
mod series;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use case::{Case, Wanted};

/// Where the sets are unpacked, beside the workspace.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/rca");

/// A set of cases.
struct Set {
    name: &'static str,
    /// Reads its cases from its folder.
    cases: fn(&Path) -> Result<Vec<Case>, String>,
    /// Figures of others.
    published: &'static str,
}

const SETS: &[Set] = &[
    Set {
        name: "cloudopsbench",
        cases: cloudopsbench::cases,
        published: "published: object+cause A@1 .73 (best language model); rules of an hour .84, object .94",
    },
    Set {
        name: "changerca",
        cases: changerca::cases,
        published: "published: A@1 .88, A@3 1.0 (ChangeRCA); .45 GIED, .39 Microscope, .51 MicroRCA",
    },
    Set {
        name: "petshop",
        cases: petshop::cases,
        published: "published: none reachable; own Avg@5 .69 (share of the shift), chance .15",
    },
    Set {
        name: "nezha-ob",
        cases: nezha::cases,
        published: "published: A@1 .93 (Nezha), .64 without logs, .16 MicroRCA, .41 MicroRank, .41 PDiagnose",
    },
    Set {
        name: RECORDED,
        cases: recorded::cases,
        published: "scenarios of this repository, which the rules were made with",
    },
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The set that is part of this repository.
const RECORDED: &str = "recorded";
/// The set that is about chains, not about causes.
const CHAINS: &str = "itbench-chains";

fn run() -> Result<(), String> {
    let names = SETS.iter().map(|set| set.name).chain([CHAINS]);
    let wanted = Wanted::parse(env::args().skip(1), names, DIRECTORY)?;
    let is_wanted = |name: &str| wanted.sets.is_empty() || wanted.sets.iter().any(|set| set == name);
    let directory = |name: &str| {
        let directory = wanted.directory.join(name);
        match directory.is_dir() {
            true => Ok(directory),
            false => Err(format!(
                "{} is not there: unpack {name} of the sets into {}, or name another folder by --dir=DIR",
                directory.display(),
                wanted.directory.display()
            )),
        }
    };
    let mut all = BTreeMap::new();
    for set in SETS.iter().filter(|set| is_wanted(set.name)) {
        let cases = match set.name {
            RECORDED => (set.cases)(Path::new(env!("CARGO_MANIFEST_DIR")))?,
            name => (set.cases)(&directory(name)?)?,
        };
        let results: Vec<_> =
            cases.iter().filter(|case| wanted.is_of(case)).map(|case| case.explain(&wanted)).collect();
        score::print(set.name, set.published, &results, &wanted);
        all.insert(set.name, results);
    }
    if wanted.sets.is_empty() && wanted.only.is_none() && wanted.without.is_empty() {
        calibrate::print(&all);
    }
    if is_wanted(CHAINS) {
        itbench::print(&directory(CHAINS)?, &wanted)?;
    }
    Ok(())
}

/// The folders in a folder, by name.
fn folders(of: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("{}: {error}", of.display());
    let entries = fs::read_dir(of).map_err(failed)?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
