//! `tapio`: reads the arguments, starts the log, runs, and exits.

use std::process::ExitCode;

use tapio_agent::{
    agent,
    cli::{self, Command},
    log,
};

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os(), std::env::vars_os()) {
        Ok(command) => command,
        Err(error) => return error.report(),
    };
    let done = match command {
        Command::Run(config) => {
            log::start(&config.log);
            agent::run(*config)
        }
        Command::Print(text) => {
            print!("{text}");
            Ok(())
        }
        _ => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
