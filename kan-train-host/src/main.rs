//! The command line `kan`: see `kan --help`.

mod command;

fn main() -> std::process::ExitCode {
    command::main()
}
