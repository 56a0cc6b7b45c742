//! The `inference-gateway` executable: run the command line, turn an error into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    inference_gateway::memory::map_large_blocks();
    inference_gateway::failpoint::start();
    match inference_gateway::cli::run() {
        Ok(code) => code,
        Err(error) => {
            // Logging may not be set up, or may be filtered away; this line must be seen.
            eprintln!("inference-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
