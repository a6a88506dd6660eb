//! Runs `deliver` on Lambda.

use std::process::ExitCode;

use lambda_runtime::{LambdaEvent, run, service_fn};
use relay::config::{Settings, environment};
use relay::logging;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut settings = Settings::new(&environment);
    let (places, config) = deliver::config(&mut settings);
    logging::json(&places.stack);
    let serve = async {
        let (places, config) = settings.finish((places, config))?;
        let deliver = deliver::start(places, config).await?;
        run(service_fn(|event: LambdaEvent<_>| {
            deliver::handle(&deliver, event)
        }))
        .await
    };
    logging::ended(serve.await)
}
