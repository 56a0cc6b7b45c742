//! The seam between the engine and what rules out tokens: a grammar, as far as anybody outside knows.

use super::request::TokenId;

/// Rules out tokens of one sequence.
///
/// For each token the worker asks [`Mask::allowed`], picks, and tells [`Mask::accept`] what it picked; an
/// end-of-text token is not told. What may follow can be computed from then on, while the model runs over the token.
pub trait Mask: Send {
    /// Whether a token may come next: bit `token % 32` of word `token / 32`. Tokens beyond the last word may not.
    ///
    /// # Errors
    /// Nothing may follow, or it cannot be told what.
    fn allowed(&mut self) -> Result<&[u32], MaskError>;

    /// Takes a token that was allowed. Returns whether the output is complete, so that nothing may follow.
    ///
    /// # Errors
    /// It cannot be told what may follow.
    fn accept(&mut self, token: TokenId) -> Result<bool, MaskError>;
}

/// Why a mask cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct MaskError(pub String);
