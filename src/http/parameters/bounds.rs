//! Bounds and defaults of numbers, said once for the checks and for the description of the API.

use super::in_range;
use crate::http::error::ApiError;

/// What a number may be, and what it is when a request does not say.
pub(in crate::http) struct Bounds {
    pub(in crate::http) least: f64,
    pub(in crate::http) most: f64,
    pub(in crate::http) default: f64,
}

pub(in crate::http) const TEMPERATURE: Bounds = Bounds { least: 0.0, most: 2.0, default: 1.0 };
pub(in crate::http) const TOP_P: Bounds = Bounds { least: 0.0, most: 1.0, default: 1.0 };
pub(in crate::http) const MIN_P: Bounds = Bounds { least: 0.0, most: 1.0, default: 0.0 };
pub(in crate::http) const REPETITION_PENALTY: Bounds = Bounds { least: 0.01, most: 100.0, default: 1.0 };
pub(in crate::http) const PRESENCE_PENALTY: Bounds = Bounds { least: -2.0, most: 2.0, default: 0.0 };
pub(in crate::http) const FREQUENCY_PENALTY: Bounds = Bounds { least: -2.0, most: 2.0, default: 0.0 };
/// Of one token.
pub(in crate::http) const BIAS: Bounds = Bounds { least: -100.0, most: 100.0, default: 0.0 };

impl Bounds {
    /// A number within the bounds, or the default.
    pub(in crate::http) fn checked(&self, field: &str, value: Option<f64>) -> Result<f32, ApiError> {
        let Self { least, most, default } = *self;
        in_range(field, value, default, least..=most)
    }
}
