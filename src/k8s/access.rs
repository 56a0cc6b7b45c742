//! Asks the cluster who has a token and what they may do. Needs the rights of `system:auth-delegator`.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::crd::GROUP;
use crate::access::{Action, ReviewError, Reviews, User};

/// Reviews by the apiserver.
pub struct ClusterReviews {
    /// The cluster.
    pub client: Client,
    /// Where the models are.
    pub namespace: String,
    /// Audiences of which a token has to have one; none: the apiserver's own.
    pub audiences: Vec<String>,
}

impl Reviews for ClusterReviews {
    fn who(&self, token: &str) -> BoxFuture<'_, Result<Option<User>, ReviewError>> {
        let audiences = (!self.audiences.is_empty()).then(|| self.audiences.clone());
        let review = TokenReview {
            spec: TokenReviewSpec { audiences, token: Some(token.to_owned()) },
            ..TokenReview::default()
        };
        async move {
            let reviews: Api<TokenReview> = Api::all(self.client.clone());
            let answer =
                reviews.create(&PostParams::default(), &review).await.map_err(|error| failed(&error))?;
            let status = answer.status.unwrap_or_default();
            // An authenticator that knows no audiences leaves them out, and has then not looked at them.
            let heard = status.audiences.unwrap_or_default();
            let for_us = self.audiences.is_empty() || self.audiences.iter().any(|ours| heard.contains(ours));
            if status.authenticated != Some(true) || !for_us {
                return Ok(None);
            }
            let user = status.user.unwrap_or_default();
            Ok(user.username.filter(|name| !name.is_empty()).map(|name| User {
                name,
                uid: user.uid.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            }))
        }
        .boxed()
    }

    fn may(&self, user: &User, action: &Action) -> BoxFuture<'_, Result<bool, ReviewError>> {
        let User { name, uid, groups, extra } = user.clone();
        let mut spec = SubjectAccessReviewSpec {
            user: Some(name),
            uid: Some(uid),
            groups: Some(groups),
            extra: Some(extra),
            ..SubjectAccessReviewSpec::default()
        };
        match action {
            Action::Generate { model } => {
                spec.resource_attributes = Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    resource: Some("models".to_owned()),
                    subresource: Some("generate".to_owned()),
                    verb: Some("create".to_owned()),
                    name: Some(model.clone()),
                    namespace: Some(self.namespace.clone()),
                    ..ResourceAttributes::default()
                });
            }
            Action::Metrics => {
                spec.non_resource_attributes = Some(NonResourceAttributes {
                    path: Some("/metrics".to_owned()),
                    verb: Some("get".to_owned()),
                });
            }
        }
        async move {
            let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            let answer =
                reviews.create(&PostParams::default(), &review).await.map_err(|error| failed(&error))?;
            // Whoever denies by name is heard, whoever else allows.
            Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
        }
        .boxed()
    }
}

fn failed(error: &kube::Error) -> ReviewError {
    ReviewError(error.to_string())
}
