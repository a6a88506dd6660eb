//! Finds a stack's table and queues: they are settings of its function `deliver`, which its template sets.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::{Credentials, ProvideCredentials as _};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use edge_agent::printable::printable;
use protocol::clock::Clock;
use relay::admin::Admin;
use relay::config::Resources;
use relay::config::environment;
use serde::Deserialize;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The answer of Lambda's `GetFunctionConfiguration`, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Function {
    environment: Environment,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Environment {
    variables: Variables,
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Variables {
    table_name: String,
    queue_url: String,
    dlq_url: String,
}

/// Connects to a relay, with credentials and a region as the AWS CLI takes them.
pub(super) async fn connect(arguments: &super::Admin) -> anyhow::Result<Admin> {
    let http = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
    if let Some(profile) = &arguments.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = &arguments.region {
        loader = loader.region(Region::new(region.clone()));
    }
    let config = loader.load().await;
    let variables = variables(&config, &arguments.stack).await?;
    let resources = Resources {
        table: variables.table_name,
        queue: variables.queue_url,
        dead_letters: variables.dlq_url,
        ..Resources::default()
    };
    Ok(Admin::new(
        aws_sdk_dynamodb::Client::new(&config),
        aws_sdk_sqs::Client::new(&config),
        resources,
        Clock::system(),
    ))
}

/// The settings of the function `deliver` of a stack, in the version that has the traffic.
async fn variables(config: &SdkConfig, stack: &str) -> anyhow::Result<Variables> {
    let region =
        (config.region()).context("no AWS region is set: use `--region`, or set AWS_REGION")?;
    let credentials = match config.credentials_provider() {
        Some(provider) => provider.provide_credentials().await,
        None => bail!("no AWS credentials are set"),
    };
    let credentials = credentials.context(
        "no AWS credentials can be used: set them as for the AWS CLI (`aws configure`, `aws sso login`, AWS_PROFILE)",
    )?;
    let endpoint = environment("AWS_ENDPOINT_URL_LAMBDA")
        .or_else(|| config.endpoint_url().map(str::to_owned))
        .unwrap_or_else(|| lambda_endpoint(region.as_ref()));
    let endpoint = endpoint.trim_end_matches('/');
    let url =
        format!("{endpoint}/2015-03-31/functions/{stack}-deliver/configuration?Qualifier=live");
    let request = signed(credentials, region, url)?;
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let answer = (client.execute(request).await)
        .map_err(reqwest::Error::without_url)
        .context("AWS Lambda cannot be asked for the stack's function `deliver`")?;
    match answer.status().as_u16() {
        200 => {}
        404 => bail!(
            "there is no stack `{stack}` in {region}: there is no function `{stack}-deliver`; use `--stack` and `--region`"
        ),
        status => {
            let text = answer.text().await.unwrap_or_default();
            let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let message = ["message", "Message"]
                .iter()
                .find_map(|name| problem[name].as_str());
            bail!(
                "AWS Lambda answered {status} when asked for the function `{stack}-deliver`: {}",
                printable(message.unwrap_or("no reason"))
            )
        }
    }
    let function: Function = (answer.json().await)
        .map_err(reqwest::Error::without_url)
        .with_context(|| {
            format!("the function `{stack}-deliver` has not the settings of edge-relay")
        })?;
    Ok(function.environment.variables)
}

/// See "AWS Lambda endpoints and quotas" in the AWS General Reference.
fn lambda_endpoint(region: &str) -> String {
    let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://lambda.{region}.amazonaws.com{suffix}")
}

fn signed(
    credentials: Credentials,
    region: &Region,
    url: String,
) -> anyhow::Result<reqwest::Request> {
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_ref())
        .name("lambda")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?;
    let mut request = axum::http::Request::get(&url).body("")?;
    let signable = SignableRequest::new("GET", url, std::iter::empty(), SignableBody::Bytes(b""))?;
    let (instructions, _) = sign(signable, &parameters.into())?.into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Ok(request.try_into()?)
}
