//! How a command fails: its exit code, and the words for people and programs.

use rdb_client::{Error, Happened, Reason};
use serde::Serialize;
use std::fmt;
use std::io;
use std::process::ExitCode;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Wrong usage that the parser cannot see.
    Usage(String),
    /// The server refused, or could not be asked.
    Call(Box<FailedCall>),
    /// A file that cannot be read, or a line in it that cannot be used.
    Input(String),
    /// The timeout of the command passed while it waited for something that did not come.
    Late(String),
    /// Stored data is damaged, or not the same on all members.
    Damaged(String),
    /// Nothing is known to be damaged, and not everything could be looked at.
    Unverified(String),
    /// A key without any event.
    NoEvents(String),
    /// The server answered what cannot be used.
    Answer(String),
    /// Standard output cannot be written.
    Output(io::Error),
}

/// A call that failed, with what is needed to say what to do next.
#[derive(Debug)]
pub(crate) struct FailedCall {
    pub(crate) error: Error,
    /// What the caller wanted, as in "write to `orders/17`".
    pub(crate) what: String,
    /// What to do, when it can be said better than the reason says it.
    pub(crate) advice: Option<String>,
    pub(crate) is_write: bool,
}

/// What `-o json` says about a failure.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorLine<'a> {
    error: ErrorBody<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    reason: Option<&'a str>,
    message: String,
}

impl Failure {
    pub(crate) fn read(what: impl Into<String>) -> impl FnOnce(Error) -> Self {
        let what = what.into();
        move |error| Self::call(error, what, false, None)
    }

    pub(crate) fn call(error: Error, what: String, is_write: bool, advice: Option<String>) -> Self {
        Self::Call(Box::new(FailedCall {
            error,
            what,
            advice,
            is_write,
        }))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        let code = match self {
            _ if self.is_broken_pipe() => 0,
            Self::Input(_) | Self::Answer(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::NoEvents(_) => 3,
            Self::Late(_) | Self::Unverified(_) => 5,
            Self::Damaged(_) => 6,
            Self::Call(call) => call.exit_code(),
        };
        ExitCode::from(code)
    }

    /// Whether the same may go well a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Call(call) if call.error.is_transient())
    }

    /// Whether there is nobody left to tell.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn to_json(&self) -> ErrorLine<'_> {
        let (code, reason) = match self {
            Self::Usage(_) | Self::Input(_) => ("INVALID_ARGUMENT", None),
            Self::Late(_) => ("DEADLINE_EXCEEDED", None),
            Self::Unverified(_) => ("UNAVAILABLE", None),
            Self::Damaged(_) => ("DATA_LOSS", Some(Reason::DataDamaged.as_str())),
            Self::NoEvents(_) => ("NOT_FOUND", Some(Reason::KeyNotFound.as_str())),
            Self::Answer(_) | Self::Output(_) => ("INTERNAL", None),
            Self::Call(call) => (call.error.code_name(), call.error.reason().map(Reason::as_str)),
        };
        let message = self.headline();
        ErrorLine {
            error: ErrorBody {
                code,
                reason,
                message,
            },
        }
    }

    fn headline(&self) -> String {
        match self {
            Self::Usage(message)
            | Self::Input(message)
            | Self::Late(message)
            | Self::Damaged(message)
            | Self::Unverified(message)
            | Self::Answer(message) => message.clone(),
            Self::NoEvents(key) => format!("key `{key}` has no events"),
            Self::Output(error) => format!("cannot write to standard output: {error}"),
            Self::Call(call) => call.headline(),
        }
    }
}

/// For people: what, then whether anything happened, then what to do; a line each.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        match self {
            Self::Usage(_) => f.write_str("\n  see: rdb-client --help"),
            Self::NoEvents(_) => f.write_str("\n  see which keys there are:  rdb-client keys"),
            Self::Damaged(_) => {
                f.write_str("\n  nothing was changed; standard output says where, and what to do")
            }
            Self::Input(_) | Self::Late(_) | Self::Unverified(_) | Self::Answer(_) | Self::Output(_) => {
                Ok(())
            }
            Self::Call(call) => {
                if call.is_write {
                    write!(f, "\n  {}", happened(&call.error))?;
                }
                match &call.advice {
                    Some(advice) => write!(f, "\n  {advice}"),
                    None => write!(f, "\n  {}", advice(&call.error)),
                }
            }
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl FailedCall {
    fn exit_code(&self) -> u8 {
        match self.error.reason() {
            Some(Reason::KeyNotFound) => 3,
            Some(Reason::VersionConflict) => 4,
            _ if self.error.is_transient() || self.is_unknown() => 5,
            _ => 1,
        }
    }

    fn is_unknown(&self) -> bool {
        self.is_write && self.error.happened() == Happened::Maybe
    }

    fn headline(&self) -> String {
        let verb = match self.error.reason() {
            Some(Reason::VersionConflict) => "conflicted",
            Some(Reason::OutcomeUnknown) => "has an unknown outcome",
            _ if self.is_unknown() => "has an unknown outcome",
            _ => "failed",
        };
        let message = self.error.message();
        let is_conflict = self.error.reason() == Some(Reason::VersionConflict);
        let version = self.error.current_version().filter(|_| is_conflict);
        let version = match version.map(|version| version.to_string()) {
            Some(version) if !message.contains(&version) => format!(" (current version {version})"),
            _ => String::new(),
        };
        let attempts = match self.error.attempts() {
            0 | 1 => String::new(),
            many => format!(", {many} attempts"),
        };
        format!("{} {verb}: {message}{version}{attempts}", self.what)
    }
}

fn happened(error: &Error) -> &'static str {
    match error.happened() {
        Happened::No => "nothing was written",
        Happened::Maybe => "it may have been written",
    }
}

fn advice(error: &Error) -> String {
    match error.reason() {
        Some(reason) => reason.advice().to_owned(),
        None if error.message().starts_with("cannot connect") => {
            "start a server there, or name another node with --server HOST:PORT".to_owned()
        }
        None => "call again in a moment; a longer --timeout waits longer".to_owned(),
    }
}
