//! `cargo xtask scenarios`: failures caused for real on the cluster of `cargo xtask kube`, and what Tapio says about
//! each.
//!
//! Each scenario is a file in `scenarios`: what is broken, what to ask, and the truth. The task deploys agents, server
//! and a small application, breaks one thing at a time, asks `kubectl tapio why`, and prints a table.

mod answer;
mod cluster;
mod file;
mod installation;
mod run;
mod table;
mod truth;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use self::cluster::Cluster;
use self::file::Scenario;
use self::run::Outcome;
use crate::{kube, machine};

/// The parsed arguments.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    names: Vec<String>,
    /// Leaves everything as it is at the end.
    keep: bool,
    /// Writes the facts of each scenario to a file.
    record: bool,
    /// Without names: the variants and the long ones, too.
    variants: bool,
}

/// `scenarios [NAME...] [--variants] [--keep] [--record]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let scenarios = chosen(file::all(&directory()?)?, &options)?;
    if let Some(reason) = kube::cluster_hindrance() {
        bail!("scenarios need a cluster: {reason}");
    }
    let was_up = kube::cluster_is_up();
    let done = perform(&scenarios, &options);
    if !was_up && !options.keep {
        kube::cluster_down()?;
    }
    done
}

/// For the nightly run, which skips them where there can be no cluster.
pub(crate) fn nightly() -> Result<()> {
    match kube::cluster_hindrance() {
        Some(reason) => {
            eprintln!("skipped: {reason}");
            Ok(())
        }
        None => task(&["--variants".to_owned()]),
    }
}

fn perform(scenarios: &[Scenario], options: &Options) -> Result<()> {
    kube::cluster_up()?;
    let cluster = Cluster::find()?;
    installation::install(&cluster)?;
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        eprintln!("\n== {}: {}", scenario.name, scenario.description);
        let outcome = run::run(&cluster, scenario, options.record)
            .unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        eprintln!("{}", outcome.summary());
        outcomes.push((scenario.name.as_str(), outcome));
    }
    if !options.keep {
        installation::remove(&cluster)?;
    }
    print!("{}", table::of(&outcomes));
    let wrong: Vec<_> =
        outcomes.iter().filter(|(_, outcome)| outcome.is_wrong()).map(|(name, _)| *name).collect();
    if !wrong.is_empty() {
        bail!("wrong: {}", wrong.join(", "));
    }
    Ok(())
}

/// The directory of the scenarios and of what they apply.
fn directory() -> Result<PathBuf> {
    Ok(machine::workspace()?.join("scenarios"))
}

/// All of them, or those with these names, in the order of the names.
fn chosen(mut all: Vec<Scenario>, options: &Options) -> Result<Vec<Scenario>> {
    if options.names.is_empty() {
        all.retain(|scenario| options.variants || !(scenario.is_variant || scenario.long));
        return Ok(all);
    }
    let known: Vec<_> = all.iter().map(|scenario| scenario.name.as_str()).collect();
    let find = |name: &String| {
        let found = all.iter().find(|scenario| scenario.name == *name).cloned();
        found.with_context(|| format!("there is no scenario `{name}`; there are {}", known.join(", ")))
    };
    options.names.iter().map(find).collect()
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--keep" => options.keep = true,
                "--record" => options.record = true,
                "--variants" => options.variants = true,
                name if !name.starts_with('-') => options.names.push(name.to_owned()),
                _ => bail!(
                    "scenarios does not know `{argument}`; it takes names, --variants, --keep and --record"
                ),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() -> Result<()> {
        let parse =
            |words: &[&str]| Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let options = parse(&["leak", "--keep", "dns"])?;
        assert_eq!((options.names.len(), options.keep, options.record), (2, true, false));
        assert!(parse(&["--kep"]).is_err());
        let all = || file::all(&directory()?);
        assert_eq!(chosen(all()?, &options)?[1].name, "dns");
        let error = chosen(all()?, &parse(&["lea"])?).unwrap_err().to_string();
        assert!(error.contains("`lea`") && error.contains("leak"), "{error}");
        let count = |words: &[&str]| anyhow::Ok(chosen(all()?, &parse(words)?)?.len());
        assert!(count(&[])? < count(&["--variants"])?);
        assert_eq!(chosen(all()?, &parse(&["leak-gateway"])?)?[0].truth.root, "Deployment shop/gateway");
        Ok(())
    }
}
