//! `POST /webhooks/linear`: the gateway's request in, [`Ingest::accept`], the gateway's answer out.

use std::convert::Infallible;

use lambda_http::http::{HeaderValue, Method, header};
use lambda_http::{Body, Request, Response};
use relay::Error;
use relay::headers::{LINEAR_DELIVERY, LINEAR_SIGNATURE};
use relay::ingest::{Ingest, Webhook};

/// Answers one webhook.
pub async fn handle(ingest: &Ingest, request: Request) -> Result<Response<Body>, Infallible> {
    Ok(answer(ingest, request)
        .await
        .unwrap_or_else(Error::into_response))
}

async fn answer(ingest: &Ingest, request: Request) -> Result<Response<Body>, Error> {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return Err(Error::method_not_allowed("POST"));
    }
    // A header that is given twice is as good as none: nobody can tell which one counts.
    let only = |name: &str| {
        let mut values = parts.headers.get_all(name).iter();
        values
            .next()
            .filter(|_| values.next().is_none())?
            .to_str()
            .ok()
    };
    let webhook = Webhook {
        signature: only(LINEAR_SIGNATURE),
        delivery: only(LINEAR_DELIVERY),
        body: match body {
            Body::Text(text) => text.into(),
            Body::Binary(bytes) => bytes.into(),
            _ => Vec::new().into(),
        },
    };
    let accepted = ingest.accept(webhook).await?;
    let body = serde_json::to_string(&accepted).expect("an answer is text and numbers");
    let mut response = Response::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
