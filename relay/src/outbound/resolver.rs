//! Name resolution of the HTTP client: each connection looks its name up anew.
//!
//! Invariant: no address that the policy does not allow leaves this module, whichever other addresses the same answer holds.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use super::Pending;
use crate::cause::Cause;
use crate::egress::{Blocked, EgressPolicy};

/// Returns the addresses of a name.
pub type Lookup = Arc<dyn Fn(&str) -> std::io::Result<Vec<IpAddr>> + Send + Sync>;

/// Resolves names and leaves out the addresses that the policy does not allow.
#[derive(Clone)]
pub(super) struct Resolver {
    pub(super) policy: Option<EgressPolicy>,
    /// Instead of the resolver of this machine.
    pub(super) lookup: Option<Lookup>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    async fn look_up(self, name: Name) -> std::io::Result<Vec<SocketAddr>> {
        match self.lookup {
            None => Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()),
            Some(lookup) => {
                let found = lookup(name.as_str())?.into_iter();
                Ok(found.map(|address| (address, 0).into()).collect())
            }
        }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Cause;
    type Future = Pending<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolver, policy) = (self.clone(), self.policy);
        Box::pin(async move {
            let resolved = resolver.look_up(name).await;
            let mut found = resolved.map_err(|error| Blocked(Some(error)))?;
            found.retain(|address| policy.is_none_or(|policy| policy.allows_ip(address.ip())));
            if found.is_empty() {
                return Err(Blocked(None).into());
            }
            Ok(found.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    /// What is left of a name's addresses.
    async fn resolve(
        policy: EgressPolicy,
        lookup: Option<Lookup>,
    ) -> Result<Vec<SocketAddr>, Cause> {
        let policy = Some(policy);
        let mut resolver = Resolver { policy, lookup };
        Ok((resolver.call(Name::from_str("localhost").unwrap()).await?).collect())
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_private_address_is_not_connected_to() {
        let refused = resolve(EgressPolicy::Public, None).await;
        assert!(refused.is_err_and(|error| error.is::<Blocked>()));
        let allowed = resolve(EgressPolicy::Loopback, None).await.unwrap();
        assert!(allowed.iter().all(|address| address.ip().is_loopback()));
    }

    #[tokio::test]
    async fn of_a_mixed_answer_only_the_allowed_addresses_are_left_in_their_order() {
        let answer =
            "10.0.0.1 9.9.9.9 ::ffff:127.0.0.1 64:ff9b::a9fe:a9fe 2606:4700::1111 ::1 1.1.1.1";
        let answer: Vec<IpAddr> = answer.split(' ').map(|ip| ip.parse().unwrap()).collect();
        let lookup: Lookup = Arc::new(move |_| Ok(answer.clone()));
        let left = resolve(EgressPolicy::Public, Some(lookup)).await.unwrap();
        let left: Vec<_> = left
            .iter()
            .map(|address| address.ip().to_string())
            .collect();
        assert_eq!(left, ["9.9.9.9", "2606:4700::1111", "1.1.1.1"]);
    }

    #[tokio::test]
    async fn an_unknown_name_an_empty_answer_and_a_blocked_address_are_the_same_error() {
        let unknown: Lookup = Arc::new(|_| Err(std::io::ErrorKind::NotFound.into()));
        let empty: Lookup = Arc::new(|_| Ok(Vec::new()));
        let blocked: Lookup = Arc::new(|_| Ok(vec![[192, 168, 0, 1].into()]));
        for lookup in [unknown, empty, blocked] {
            let refused = resolve(EgressPolicy::Public, Some(lookup)).await;
            assert!(refused.is_err_and(|error| error.is::<Blocked>()));
        }
    }
}
