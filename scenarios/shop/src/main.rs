//! A small application that scenarios break.
//!
//! `shop ROLE` is one of the services gateway, orders, payments, stock and db, the load on them, or the name server
//! that they are found by. A service answers HTTP, calls the next ones with a connection for each request, and
//! misbehaves as its environment says ([`settings`]) or as a request asks ([`service`]).
#![forbid(unsafe_code)]

mod call;
mod configuration;
mod dns;
mod load;
mod master;
mod memory;
mod service;
mod settings;
mod stop;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use self::settings::Settings;

const USAGE: &str =
    "shop gateway|orders|payments|stock|db | shop SERVICE worker | shop load | shop dns | shop get URL";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let settings = Settings::of(|name| std::env::var(name).ok())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("there is no runtime")?;
    let done = runtime.block_on(perform(&words, settings));
    // Not waiting for a thread that reads standard input.
    runtime.shutdown_background();
    println!("{} ends", words.first().unwrap_or(&"shop"));
    done
}

async fn perform(words: &[&str], settings: Settings) -> Result<()> {
    match words {
        ["load"] => load::run(&settings).await,
        ["dns"] => dns::run(&settings).await,
        ["get", url] => {
            let status = call::get_url(url).await?;
            println!("{status}");
            Ok(())
        }
        [role] if settings::next(role).is_some() && settings.has_worker => master::run(role).await,
        [role] | [role, "worker"] => match settings::next(role) {
            Some(next) => service::run(role, next, settings, words.len() > 1).await,
            None => bail!("there is no role `{role}`; usage: {USAGE}"),
        },
        _ => bail!("usage: {USAGE}"),
    }
}
