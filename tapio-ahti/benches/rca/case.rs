//! A case: facts, what is true of them, and what the engine answers.

use std::{collections::BTreeMap, path::PathBuf};

use tapio_ahti::{
    Engine, Limits, Rules, Without,
    calibration::{self, Weights},
    incident::{Certainty, Considered, Name},
};
use tapio_occurrence::{Occurrence, kubernetes};

/// A case.
pub(crate) struct Case {
    pub(crate) name: String,
    /// What the set calls the kind of fault.
    pub(crate) fault: String,
    /// The object that the set blames, in its own words.
    pub(crate) object: String,
    /// The cause that the set names; empty where it names none.
    pub(crate) cause: String,
    /// Objects that could be blamed; 0 where that is not known.
    pub(crate) choices: usize,
    /// Whether the fault leaves no trace in what is known, so that the right answer is that the cause is not known.
    pub(crate) leaves_no_trace: bool,
    /// Who is asked about; everything if it is nobody.
    pub(crate) asked: Option<Name>,
    /// The question is about what went on at this time or later; from the incidents' quiet time before the last fact if 0.
    pub(crate) since_unix_ns: u64,
    pub(crate) facts: Vec<Occurrence>,
    /// Says a cause in the words of the set.
    pub(crate) say: Say,
}

/// What the engine's causes are in the words of a set.
pub(crate) type Say = Box<dyn Fn(&Considered, &ById<'_>) -> Said>;

/// Facts by their id.
pub(crate) type ById<'a> = BTreeMap<String, &'a Occurrence>;

/// A cause in the words of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Said {
    pub(crate) object: String,
    pub(crate) cause: String,
}

/// What became of a case.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) fault: String,
    pub(crate) choices: usize,
    pub(crate) leaves_no_trace: bool,
    /// The place of the right object among the objects that were named, from 1.
    pub(crate) object: Option<usize>,
    /// The place of the right object with the right cause.
    pub(crate) both: Option<usize>,
    /// How sure the first answer is; `None`: no cause was named.
    pub(crate) certainty: Option<Certainty>,
    /// What tells how likely that is right.
    pub(crate) signs: Option<Weights>,
    /// What was named, for people.
    pub(crate) named: Vec<Said>,
    pub(crate) expected: Said,
}

/// What is asked for on the command line.
pub(crate) struct Wanted {
    pub(crate) directory: PathBuf,
    pub(crate) sets: Vec<String>,
    /// Only cases with this in their name or fault.
    pub(crate) only: Option<String>,
    /// What is left out.
    pub(crate) without: Vec<String>,
    /// Whether to list what is wrong.
    pub(crate) lists_wrong: bool,
    /// Whether to show each answer in full.
    pub(crate) shows: bool,
}

/// The namespace of systems that are made up.
pub(crate) const NAMESPACE: &str = "shop";
/// After so long without symptoms an incident is over.
const QUIET_NS: u64 = 300_000_000_000;
/// What can be left out.
const PARTS: &[&str] =
    &["changes", "kernel", "stopped-services", "standing", "old-new", "two-ended", "learning"];

impl Outcome {
    /// Whether the first answer is right, with the cause where the set names one.
    pub(crate) fn is_right(&self) -> bool {
        let place = if self.expected.cause.is_empty() { self.object } else { self.both };
        place == Some(1)
    }
}

impl Wanted {
    pub(crate) fn parse(
        arguments: impl Iterator<Item = String>,
        sets: impl Iterator<Item = &'static str>,
        directory: &str,
    ) -> Result<Self, String> {
        let known: Vec<&str> = sets.collect();
        let mut wanted = Self {
            directory: PathBuf::from(directory),
            sets: Vec::new(),
            only: None,
            without: Vec::new(),
            lists_wrong: false,
            shows: false,
        };
        let mut arguments = arguments.filter(|argument| argument != "--bench").peekable();
        while let Some(argument) = arguments.next() {
            let (key, value) = match argument.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = |name: &str| {
                let next = value.clone().or_else(|| arguments.next());
                next.ok_or_else(|| format!("{name} needs a value"))
            };
            match key.as_str() {
                "--dir" => wanted.directory = PathBuf::from(value("--dir")?),
                "--only" => wanted.only = Some(value("--only")?),
                "--without" => wanted.without.extend(value("--without")?.split(',').map(str::to_owned)),
                "--wrong" => wanted.lists_wrong = true,
                "--show" => wanted.shows = true,
                name if known.contains(&name) => wanted.sets.push(key),
                name => {
                    return Err(format!(
                        "`{name}` is neither a set nor a flag: there are {}, --dir=DIR, --without=PART,..., --only=TEXT, \
                         --wrong and --show",
                        known.join(", ")
                    ));
                }
            }
        }
        if let Some(part) = wanted.without.iter().find(|part| !PARTS.contains(&part.as_str())) {
            return Err(format!("--without: there is no part `{part}`, but {}", PARTS.join(", ")));
        }
        Ok(wanted)
    }

    pub(crate) fn is_without(&self, part: &str) -> bool {
        self.without.iter().any(|left_out| left_out == part)
    }

    pub(crate) fn is_of(&self, case: &Case) -> bool {
        self.only.as_ref().is_none_or(|only| case.name.contains(only) || case.fault.contains(only))
    }
}

impl Case {
    /// Asks the engine.
    pub(crate) fn explain(&self, wanted: &Wanted) -> Outcome {
        let rules = Rules::embedded().unwrap_or_else(|error| panic!("the rules are wrong: {error}"));
        let without = Without {
            standing: wanted.is_without("standing"),
            old_new: wanted.is_without("old-new"),
            two_ended: wanted.is_without("two-ended"),
            learning: wanted.is_without("learning"),
        };
        let mut engine = Engine::new(rules, Limits::default()).without(without);
        let mut facts: Vec<&Occurrence> = self.facts.iter().filter(|fact| is_fed(fact, wanted)).collect();
        facts.sort_by_key(|fact| (fact.time_unix_ns, fact.id));
        for fact in &facts {
            if let Err(error) = engine.take(fact) {
                panic!("{}: the engine refuses a fact: {error}", self.name);
            }
        }
        let by_id: ById<'_> = facts.iter().map(|fact| (fact.id.to_string(), *fact)).collect();
        let since = match self.since_unix_ns {
            0 => engine.now_unix_ns().saturating_sub(QUIET_NS),
            since => since,
        };
        let causes = engine.causes(since, self.asked.as_ref());
        if wanted.shows {
            self.show(&mut engine, &causes, &by_id);
        }
        let mut named: Vec<Said> = Vec::new();
        for said in causes.iter().map(|cause| (self.say)(cause, &by_id)) {
            if !named.contains(&said) {
                named.push(said);
            }
        }
        let mut objects: Vec<&str> = Vec::new();
        for said in &named {
            if !objects.contains(&&*said.object) {
                objects.push(&said.object);
            }
        }
        let expected = Said { object: self.object.clone(), cause: self.cause.clone() };
        let place = |at: Option<usize>| at.map(|at| at + 1);
        let first = causes.first().and_then(|cause| {
            let facts = |incident: &&tapio_ahti::incident::Incident| {
                incident.has_cause
                    && incident
                        .lines
                        .first()
                        .is_some_and(|line| cause.facts.first().is_some_and(|id| line.facts.contains(id)))
            };
            let incident = engine.incidents().into_iter().find(facts)?;
            Some((incident.certainty, incident.lead.and_then(|lead| lead.margin)))
        });
        Outcome {
            name: self.name.clone(),
            fault: self.fault.clone(),
            choices: self.choices,
            leaves_no_trace: self.leaves_no_trace,
            object: place(objects.iter().position(|object| *object == self.object)),
            both: place(named.iter().position(|said| *said == expected)),
            certainty: first.map(|(certainty, _)| certainty),
            signs: first.map(|(certainty, margin)| calibration::signs(certainty, margin)),
            named,
            expected,
        }
    }

    fn show(&self, engine: &mut Engine, causes: &[Considered], by_id: &ById<'_>) {
        println!("--- {}: {} {}", self.name, self.object, self.cause);
        let coverage = engine.coverage();
        for incident in engine.incidents() {
            println!("{}", tapio_ahti::answer::text(incident, &coverage));
        }
        for cause in causes.iter().take(8) {
            let said = (self.say)(cause, by_id);
            println!("{:7.2} {} {} ({}): {}", cause.score, said.object, said.cause, cause.entity, cause.text);
            for (term, value) in &cause.terms {
                println!("          {value:+.2} {term}");
            }
            for explained in &cause.explains {
                println!("          {} -> {} of {}", explained.rule, explained.kind, explained.workload);
            }
        }
    }
}

/// Whether a fact is not left out.
fn is_fed(fact: &Occurrence, wanted: &Wanted) -> bool {
    let is_change = fact.kind == <kubernetes::Change as kubernetes::Fact>::TYPE;
    let is_kernel = fact.source == tapio_occurrence::SOURCE && fact.kind != "tapio.heartbeat";
    let is_stopped = fact.kind == "node.service_stopped";
    !(is_stopped && wanted.is_without("stopped-services")
        || is_change && wanted.is_without("changes")
        || is_kernel && wanted.is_without("kernel"))
}
