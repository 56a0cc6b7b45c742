//! A Jinja template as a program of a stranger: it is run with fuel, which pays for every instruction and every byte it makes,
//! on a stack of its own that the fuel cannot overflow; it reads no file, no other template, and no clock but the day's.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::machinery::{Instruction, Instructions, get_compiled_template};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Value};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde::Serialize;

use super::clock::Clock;
use super::python;

/// Longest template that settings may give, in bytes.
pub const MOST_OVERRIDE_BYTES: usize = 16 << 10;

/// Instructions of one rendering, or 64 bytes each: a conversation of a thousand messages takes a quarter.
const FUEL: u64 = 200_000;
/// Longest prompt, in bytes: far more than any context.
const MOST_OUTPUT_BYTES: usize = 16 << 20;
/// Macros that call each other.
const DEEPEST_CALL: usize = 50;
/// What the fuel can nest (a list in a list in a list…) is freed level by level: this holds it.
const STACK_BYTES: usize = 128 << 20;
/// Names that the language gives a meaning of their own.
const NAMES_OF_THE_LANGUAGE: [&str; 4] = ["loop", "self", "super", "caller"];

/// A compiled template. Immutable and shared by all requests.
pub(in crate::text) struct Program {
    name: String,
    environment: Environment<'static>,
}

/// What a variable is that nobody has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::text) enum Strictness {
    /// Empty, as models' own templates expect it.
    Lenient,
    /// An error, but for `is defined` and `default`. What can only go wrong is refused before anything is rendered: other
    /// templates, filters, tests and functions that do not exist.
    Strict,
}

/// Why a template is none, or did not render. To be read after the name of the template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// The source is too long.
    #[error("has {bytes} bytes, at most {limit} are taken")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The source is no template.
    #[error("does not compile: {0}")]
    Syntax(String),
    /// The template refused what it was given itself (`raise_exception`), with its words.
    #[error("refuses the conversation: {0}")]
    Refused(String),
    /// The template loops, or makes too much of what it is given.
    #[error("does not come to an end: it was stopped after {FUEL} steps")]
    Endless,
    /// The prompt is too long.
    #[error("makes a prompt of {0} bytes, at most {MOST_OUTPUT_BYTES} are taken")]
    TooLong(usize),
    /// A variable is used that was not given.
    #[error("needs a variable that is not given: {0}")]
    Undefined(String),
    /// The template does something that cannot be done.
    #[error("failed: {0}")]
    Failed(String),
}

/// What `raise_exception` raised; told from other failures by its type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl std::fmt::Debug for Program {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Program").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Program {
    /// Compiles a source of at most `limit` bytes. Errors name the template as `name`, and the line.
    ///
    /// # Errors
    /// [`ProgramError::TooLarge`] and [`ProgramError::Syntax`].
    pub(in crate::text) fn compile(
        name: &str,
        source: &str,
        limit: usize,
        strictness: Strictness,
    ) -> Result<Self, ProgramError> {
        Self::compile_with(name, source, limit, (strictness, Clock::System))
    }

    pub(super) fn compile_with(
        name: &str,
        source: &str,
        limit: usize,
        (strictness, clock): (Strictness, Clock),
    ) -> Result<Self, ProgramError> {
        if source.len() > limit {
            return Err(ProgramError::TooLarge { bytes: source.len(), limit });
        }
        let syntax = |error: minijinja::Error| ProgramError::Syntax(error.to_string());
        let mut environment = environment(strictness, clock).map_err(syntax)?;
        let source = python::without_generation_marks(source).into_owned();
        let name = name.to_owned();
        let compiled = on_own_stack(move || {
            environment.add_template_owned(name.clone(), source).map(|()| Self { name, environment })
        })?
        .map_err(syntax)?;
        match strictness {
            Strictness::Lenient => Ok(compiled),
            Strictness::Strict => compiled.check().map_err(ProgramError::Syntax).map(|()| compiled),
        }
    }

    /// Renders with the fields of `context` as variables. Blocking, for milliseconds: call it off the async threads.
    ///
    /// # Errors
    /// The template refuses, fails, does not end, or makes too much.
    pub(in crate::text) fn render(&self, context: &(impl Serialize + Sync)) -> Result<String, ProgramError> {
        // An error may hold values of the template: it does not leave the stack that can free them.
        let prompt = on_own_stack(|| {
            let template = self.environment.get_template(&self.name).map_err(|error| failure(&error))?;
            template.render(Value::from(minijinja::value::Serde(context))).map_err(|error| failure(&error))
        })??;
        if prompt.len() > MOST_OUTPUT_BYTES {
            return Err(ProgramError::TooLong(prompt.len()));
        }
        Ok(prompt)
    }

    /// The variables that the template reads from what it is given, wherever in it that is.
    pub(in crate::text) fn variables(&self) -> BTreeSet<String> {
        let template = self.environment.get_template(&self.name).expect("it was added when it was compiled");
        let mut read: BTreeSet<String> = template.undeclared_variables(false).into_iter().collect();
        // `{% set tone = tone | default("dry") %}` reads the one and makes another, which counts as declared.
        for part in parts(&template) {
            let mut made = BTreeSet::new();
            for (_, instruction) in numbered(part) {
                if let Instruction::StoreLocal(name) = instruction {
                    made.insert(*name);
                } else if let Instruction::Lookup(name) = instruction
                    && !made.contains(name)
                {
                    read.insert((*name).to_owned());
                }
            }
        }
        read.retain(|name| {
            !NAMES_OF_THE_LANGUAGE.contains(&name.as_str()) && !self.globals().contains(&name.as_str())
        });
        read
    }

    /// Finds what can only go wrong, with its line.
    fn check(&self) -> Result<(), String> {
        let template = self.environment.get_template(&self.name).map_err(|error| error.to_string())?;
        for part in parts(&template) {
            let made: BTreeSet<&str> = numbered(part)
                .filter_map(|(_, instruction)| match instruction {
                    Instruction::StoreLocal(name) => Some(*name),
                    _ => None,
                })
                .collect();
            for (number, instruction) in numbered(part) {
                let wrong = match instruction {
                    Instruction::Include(_) | Instruction::LoadBlocks => Some(
                        "include, import and extends are not possible: there are no other files".to_owned(),
                    ),
                    Instruction::ApplyFilter(name, _, _) if !self.is_there("filter", name) => {
                        Some(format!("there is no filter `{name}`"))
                    }
                    Instruction::PerformTest(name, _, _) if !self.is_there("test", name) => {
                        Some(format!("there is no test `{name}`"))
                    }
                    Instruction::CallFunction(name, _)
                        if !made.contains(name)
                            && !NAMES_OF_THE_LANGUAGE.contains(name)
                            && !self.globals().contains(name) =>
                    {
                        Some(format!("there is no function `{name}`"))
                    }
                    _ => None,
                };
                if let Some(wrong) = wrong {
                    let line = part.get_line(number).unwrap_or_default();
                    return Err(format!("{wrong} (in {}:{line})", self.name));
                }
            }
        }
        Ok(())
    }

    fn globals(&self) -> Vec<&str> {
        self.environment.globals().map(|(name, _)| name).collect()
    }

    /// Whether there is a filter or a test of a name, asked in the language itself.
    fn is_there(&self, kind: &str, name: &str) -> bool {
        let source = format!("name is {kind}");
        let asked = self.environment.compile_expression(&source);
        let answer = asked.and_then(|asked| asked.eval(minijinja::context! { name }));
        answer.is_ok_and(|answer| answer.is_true())
    }
}

/// The instructions of a template and of its blocks.
fn parts<'template>(
    template: &'template minijinja::Template<'_, '_>,
) -> impl Iterator<Item = &'template Instructions<'template>> {
    let compiled = get_compiled_template(template);
    std::iter::once(&compiled.instructions).chain(compiled.blocks.values())
}

fn numbered<'part>(
    part: &'part Instructions<'part>,
) -> impl Iterator<Item = (u32, &'part Instruction<'part>)> {
    (0..).map_while(|number| Some((number, part.get(number)?)))
}

fn environment(strictness: Strictness, clock: Clock) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_undefined_behavior(match strictness {
        Strictness::Lenient => UndefinedBehavior::Lenient,
        Strictness::Strict => UndefinedBehavior::Strict,
    });
    environment.set_auto_escape_callback(|_name| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(python::call);
    environment.set_recursion_limit(DEEPEST_CALL);
    environment.set_fuel(Some(FUEL));
    // Only so do errors name what is undefined. What else they then know is not told.
    environment.set_debug(strictness == Strictness::Strict);
    environment.remove_global("debug");
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| clock.now(format));
    environment.set_formatter(python::print);
    environment.add_filter("string", python::string);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("int", python::int);
    environment.add_filter("float", python::float);
    environment.add_filter("attr", python::attr);
    environment.add_test("iterable", python::is_iterable);
    environment.add_test("sequence", python::is_sequence);
    environment.add_test("callable", python::is_callable);
    environment.add_function("cycler", |Rest(items): Rest<Value>| minijinja_contrib::globals::cycler(items));
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    Ok(environment)
}

/// Runs foreign logic where deep nesting has room, and a panic is an error.
fn on_own_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, ProgramError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || catch_unwind(AssertUnwindSafe(work)))
            .map_err(|error| ProgramError::Failed(error.to_string()))?;
        let panicked = || ProgramError::Failed("it made the interpreter panic".to_owned());
        thread.join().map_err(|_panic| panicked())?.map_err(|_panic| panicked())
    })
}

/// The words of the template itself, if it raised them; else the interpreter's.
fn failure(error: &minijinja::Error) -> ProgramError {
    if error.kind() == ErrorKind::OutOfFuel {
        return ProgramError::Endless;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return ProgramError::Refused(message.clone());
        }
        cause = inner.source();
    }
    if error.kind() == ErrorKind::UndefinedError {
        let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
        return ProgramError::Undefined(format!("{}{line}", error.detail().unwrap_or("it has no name")));
    }
    ProgramError::Failed(error.to_string())
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    let error = minijinja::Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised(message)))
}
