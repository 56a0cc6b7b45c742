//! How the document tells who may come in, and how whoever may not is answered: the same for every operation that is not open.

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{Components, ComponentsBuilder, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr};

use super::{OIP, OPENAI, TGI};
use crate::http::access::KEY_HEADER;

const BEARER: &str = "Bearer";
const KEY: &str = "Key";
const WHEN: &str = "Where `INFERENCE_AUTH_MODE` is not `none`";

/// A status that the door of the API answers with, and what it means.
struct Refusal {
    status: &'static str,
    meaning: &'static str,
    code: &'static str,
    openai_code: &'static str,
    header: Option<(&'static str, Type, &'static str)>,
}

const RETRY_AFTER: (&str, Type, &str) = ("retry-after", Type::Integer, "Seconds after which to try again");
const REFUSALS: [Refusal; 4] = [
    Refusal {
        status: "401",
        meaning: "a key is needed, and there is none, or no valid one",
        code: "unauthenticated",
        openai_code: "invalid_api_key",
        header: Some(("www-authenticate", Type::String, "How to send a key")),
    },
    Refusal {
        status: "403",
        meaning: "the key is not for this",
        code: "model_forbidden",
        openai_code: "model_forbidden",
        header: None,
    },
    Refusal {
        status: "429",
        meaning: "a quota of the key is used up",
        code: "quota_exceeded",
        openai_code: "rate_limit_exceeded",
        header: Some(RETRY_AFTER),
    },
    Refusal {
        status: "503",
        meaning: "it is not known now who may come in",
        code: "access_not_known",
        openai_code: "access_not_known",
        header: Some(RETRY_AFTER),
    },
];
const TOO_SLOW: Refusal = Refusal {
    status: "408",
    meaning: "the body did not come in time",
    code: "body_too_slow",
    openai_code: "body_too_slow",
    header: None,
};

/// What keys look like.
pub(super) fn schemes(components: Components) -> Components {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    let bearer =
        bearer.description(Some(format!("{WHEN}: a key, or a token of a service account with `kubernetes`")));
    let key = ApiKeyValue::with_description(KEY_HEADER, WHEN);
    ComponentsBuilder::from(components)
        .security_scheme(BEARER, SecurityScheme::Http(bearer.build()))
        .security_scheme(KEY, SecurityScheme::ApiKey(ApiKey::Header(key)))
        .build()
}

/// Adds to an operation that a key may be needed, and the answers of the door that it does not describe itself.
pub(super) fn describe(operation: &mut Operation) {
    let requirement = |scheme: &str| SecurityRequirement::new(scheme, Vec::<String>::new());
    // An empty one: where nobody is asked, none is needed.
    operation.security = Some(vec![SecurityRequirement::default(), requirement(BEARER), requirement(KEY)]);
    let tag = operation.tags.iter().flatten().map(String::as_str).next();
    let has_body = operation.request_body.is_some();
    for refusal in REFUSALS.into_iter().chain(has_body.then_some(TOO_SLOW)) {
        let responses = &mut operation.responses.responses;
        if let Some(RefOr::T(known)) = responses.get_mut(refusal.status) {
            known.description.push_str("; or ");
            known.description.push_str(&refusal.text(tag));
        } else {
            responses.insert(refusal.status.to_owned(), refusal.response(tag).into());
        }
    }
}

impl Refusal {
    /// What it means, with its code where the dialect has codes.
    fn text(&self, tag: Option<&str>) -> String {
        let meaning = self.meaning;
        match tag {
            Some(OIP) => meaning.to_owned(),
            Some(OPENAI) => format!("{meaning} (`{}`)", self.openai_code),
            _ => format!("{meaning} (`{}`)", self.code),
        }
    }

    fn response(&self, tag: Option<&str>) -> Response {
        let body = match tag {
            Some(OPENAI) => "OpenAiError",
            Some(OIP) => "OipError",
            Some(TGI) => "TgiError",
            _ => "NativeError",
        };
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(body))).build();
        let text = self.text(tag);
        let text = text[..1].to_uppercase() + &text[1..];
        let response = ResponseBuilder::new().description(text).content("application/json", content);
        let Some((name, kind, description)) = self.header.clone() else { return response.build() };
        let schema = ObjectBuilder::new().schema_type(kind);
        let header = HeaderBuilder::new().schema(Some(schema)).description(Some(description));
        response.header(name, header.build()).build()
    }
}
