//! Text ↔ tokens. Pure: no I/O but reading the tokenizer's file, no async, nothing of ours outside this folder.

pub mod chat;
pub mod constraint;
pub mod decoder;
pub mod prompts;
pub mod stop;
pub mod template;
pub mod tokenizer;
pub mod tools;
