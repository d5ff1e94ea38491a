//! Errors that say how they are mended, and whose fault they are.

/// The class of an error, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorClass {
    /// A stage failed, or an `expect` does not hold.
    Stage,
    /// The workflow, the command line or a source is wrong.
    Input,
    /// `verify` or `--locked` found a difference.
    Difference,
    /// The disk, the system, or a backend that this build lacks.
    Environment,
    /// A stop was asked for.
    Interrupted,
}

impl ErrorClass {
    /// The exit code of a command that ends with such an error.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorClass::Stage => 1,
            ErrorClass::Input => 2,
            ErrorClass::Difference => 3,
            ErrorClass::Environment => 4,
            ErrorClass::Interrupted => 130,
        }
    }
}

/// An error with its class and a hint.
pub trait Explain: std::error::Error {
    /// The class, which decides the exit code.
    fn class(&self) -> ErrorClass;

    /// The remedy, where one is known.
    fn hint(&self) -> Option<String> {
        None
    }
}
