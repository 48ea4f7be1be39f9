//! Arguments behind `--` of a bench; those that the bench runner adds are passed over.

/// What stands behind `name`, if it was given.
pub fn text(name: &str) -> Option<String> {
    let mut arguments = std::env::args();
    arguments.find(|argument| argument == name)?;
    Some(arguments.next().unwrap_or_else(|| panic!("{name} takes a value")))
}

/// The number behind `name`, if it was given.
pub fn number(name: &str) -> Option<u64> {
    let value = text(name)?;
    Some(value.replace('_', "").parse().unwrap_or_else(|_| panic!("{name} takes a number, not {value}")))
}

/// Whether `name` was given.
pub fn flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}
