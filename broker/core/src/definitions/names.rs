//! Checks against what is there already, and errors that name the nearest known one.

use pointsman_protocol::{ErrorBody, ErrorCode};

/// Names that only the broker gives.
pub(super) const RESERVED: &str = "pointsman.";
/// Before the name of the exchange whose failed messages a queue keeps.
pub(super) const QUARANTINE: &str = "pointsman.quarantine.";
/// How many names are looked at for one that is near; those around the name in the alphabet would do as well, but
/// a typo in the first letter is a typo too.
const NAMES_TRIED: usize = 1_000;
/// Names that differ in more places are not near.
const NEAR: usize = 3;

/// The exchange whose quarantine queue has this name.
pub(super) fn quarantine_of(queue: &str) -> Option<&str> {
    queue.strip_prefix(QUARANTINE)
}

/// Refuses a name that a user gives to something new but may not.
pub(super) fn check_free(kind: &str, name: &str) -> Result<(), ErrorBody> {
    if name.starts_with(RESERVED) {
        let message = format!("the {kind} name '{name}' starts with '{RESERVED}', which is the broker's own");
        return Err(ErrorBody::new(ErrorCode::InvalidArgument, message).hint("choose another name"));
    }
    Ok(())
}

/// Checks that there is room for one more.
pub(super) fn check_room(what: &str, limit: &str, count: usize, max: usize) -> Result<(), ErrorBody> {
    if count < max {
        return Ok(());
    }
    let message = format!("the broker has {count} {what}, the limit {limit}");
    Err(ErrorBody::new(ErrorCode::LimitReached, message).hint(format!("delete {what} that nobody uses")))
}

/// There is no `kind` of that name.
pub(super) fn not_found<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a String>) -> ErrorBody {
    let error = ErrorBody::new(ErrorCode::NotFound, format!("there is no {kind} '{name}'"));
    match nearest(name, known) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint(format!("'pointsman {kind} list' shows those that are there")),
    }
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    known
        .take(NAMES_TRIED)
        .filter(|known| known.len().abs_diff(name.len()) <= NEAR)
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= NEAR && *distance < known.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// It exists, but not as it is declared now.
pub(super) fn differs(
    kind: &str,
    name: &str,
    property: &str,
    is: impl std::fmt::Debug,
    asked: impl std::fmt::Debug,
) -> ErrorBody {
    let message = format!("{kind} '{name}' exists with {property} {is:?}, but {asked:?} was declared");
    ErrorBody::new(ErrorCode::PreconditionFailed, message)
        .hint(format!("declare it as it is, or delete the {kind} first"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_comes_with_the_nearest_known_one() {
        let known = ["orders".to_owned(), "payments".to_owned()];
        assert_eq!(
            not_found("queue", "oders", known.iter()).to_string(),
            "there is no queue 'oders' (did you mean 'orders'?)"
        );
        assert_eq!(
            not_found("queue", "zebra", known.iter()).to_string(),
            "there is no queue 'zebra' ('pointsman queue list' shows those that are there)"
        );
    }

    #[test]
    fn the_brokers_own_names_are_not_for_users() {
        assert!(check_free("queue", "orders").is_ok());
        assert_eq!(
            check_free("queue", "pointsman.x").unwrap_err().code,
            ErrorCode::InvalidArgument
        );
    }
}
