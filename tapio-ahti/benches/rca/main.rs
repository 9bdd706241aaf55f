//! How often the engine finds the cause, on failures whose causes are known: `cargo xtask bench rca`.
//!
//! A set of cases is turned into facts in this project's own words, and the engine with its own rules explains them. What a set
//! says about the cause is read for scoring alone. `docs/accuracy.md` has the method and the figures.

#![allow(clippy::panic, missing_docs, reason = "a bench's helpers fail as tests do")]

mod case;
mod changerca;
mod cloudopsbench;
mod describe;
mod facts;
mod files;
mod labels;
mod nezha;
mod petshop;
mod score;
mod series;

use std::{
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

fn run() -> Result<(), String> {
    let wanted = Wanted::parse(env::args().skip(1), SETS.iter().map(|set| set.name), DIRECTORY)?;
    for set in
        SETS.iter().filter(|set| wanted.sets.is_empty() || wanted.sets.iter().any(|name| name == set.name))
    {
        let directory = wanted.directory.join(set.name);
        if !directory.is_dir() {
            return Err(format!(
                "{} is not there: unpack {}.tar.gz of the sets into {}, or name another folder by --dir=DIR",
                directory.display(),
                set.name,
                wanted.directory.display()
            ));
        }
        let cases = (set.cases)(&directory)?;
        let results: Vec<_> =
            cases.iter().filter(|case| wanted.is_of(case)).map(|case| case.explain(&wanted)).collect();
        score::print(set.name, set.published, &results, &wanted);
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
