//! `edge-agent`, built where the tests find it. As `agent clock up …` its clock is moved: each line on stdin is how
//! many seconds go by at once.

mod moved_clock;

use std::process::ExitCode;

use edge_agent::signal::Signals;
use edge_agent::up::Environment;

fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(1).is_none_or(|first| first != "clock") {
        return edge_agent::cli::main();
    }
    arguments.remove(1);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let done = runtime.block_on(async {
        let clock = moved_clock::by_stdin(|| ());
        let (sender, signals) = tokio::sync::mpsc::channel(8);
        let mut process_signals = Signals::listen().expect("signals");
        tokio::spawn(
            async move { while sender.send(process_signals.next().await).await.is_ok() {} },
        );
        let around = Environment {
            clock,
            route: Box::new(|| Some("one".to_owned())),
            program: std::env::current_exe().expect("this program"),
            prints_to_nowhere: false,
            signals,
        };
        edge_agent::cli::up(arguments, around).await
    });
    if done.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
