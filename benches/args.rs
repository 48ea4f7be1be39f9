//! Arguments behind `--` of a bench; those that the bench runner adds are passed over.

/// The number behind `name`, if it was given.
pub fn number(name: &str) -> Option<u64> {
    let mut arguments = std::env::args();
    arguments.find(|argument| argument == name)?;
    let value = arguments.next().unwrap_or_else(|| panic!("{name} takes a number"));
    Some(value.replace('_', "").parse().unwrap_or_else(|_| panic!("{name} takes a number, not {value}")))
}

/// Whether `name` was given.
pub fn flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}
