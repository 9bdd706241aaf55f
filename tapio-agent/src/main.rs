//! `tapio`: reads the arguments, starts the log, runs, and exits.

use std::{io::Write as _, process::ExitCode};

use tapio_agent::{
    agent,
    cli::{self, Command},
    selftest,
};
use tapio_occurrence::printable::printable;
use tapio_service::log;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os(), std::env::vars_os()) {
        Ok(command) => command,
        Err(error) => return error.report(),
    };
    let done = match command {
        Command::Run(config) => {
            log::start(&config.log);
            agent::run(*config).map(|()| ExitCode::SUCCESS)
        }
        Command::Doctor(doctor) => doctor.run(),
        Command::Selftest(config) => {
            log::start(&config.log);
            selftest::run(&config)
        }
        Command::Fault(part) => selftest::run_role(&part.role, &part.arguments).map(|()| ExitCode::SUCCESS),
        Command::Replay(replay) => replay.run().map(|_| ExitCode::SUCCESS),
        // A reader that stops early, such as `head`, is not an error.
        Command::Print(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(ExitCode::SUCCESS)
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
