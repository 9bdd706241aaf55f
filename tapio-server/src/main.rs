//! `tapio-server`: reads the arguments, starts the log, serves, and exits.

use std::{io::Write as _, process::ExitCode};

use tapio_occurrence::printable::printable;
use tapio_server::{
    cli::{self, Command},
    server,
};
use tapio_service::log;

fn main() -> ExitCode {
    let done = match cli::parse(std::env::args_os(), std::env::vars_os()) {
        Err(error) => return error.report(),
        Ok(Command::Run(config)) => {
            log::start(&config.log);
            server::run(*config)
        }
        // A reader that stops early, such as `head`, is not an error.
        Ok(Command::Print(text)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
