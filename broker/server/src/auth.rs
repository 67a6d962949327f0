//! Passwords: how one is made and how it is checked.
//!
//! The broker generates its credentials itself, 160 random bits, so a salted SHA-256 is enough: a hash made slow on
//! purpose only helps passwords that people choose.

use pointsman_core::catalog::UserVerifier;
use sha2::{Digest, Sha256};

/// SHA-256 over salt and password; for generated passwords only.
const SCHEME_SHA256: u8 = 1;

/// A new password of 160 random bits in 32 letters and digits.
pub(crate) fn generate_password() -> Result<String, getrandom::Error> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = [0u8; 32];
    getrandom::fill(&mut random)?;
    Ok(random
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect())
}

/// What `password` will be checked against.
pub(crate) fn verifier(password: &str) -> Result<UserVerifier, getrandom::Error> {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt)?;
    Ok(UserVerifier {
        scheme: SCHEME_SHA256,
        salt,
        hash: hash(&salt, password),
    })
}

/// Whether `password` is the one. Takes the same time for every wrong password, and for a user that is not there.
pub(crate) fn verify(verifier: Option<&UserVerifier>, password: &str) -> bool {
    let nobody = UserVerifier {
        scheme: 0,
        salt: [0; 16],
        hash: [0; 32],
    };
    let expected = verifier.unwrap_or(&nobody);
    let given = hash(&expected.salt, password);
    let difference = given
        .iter()
        .zip(&expected.hash)
        .fold(0, |acc, (a, b)| acc | (a ^ b));
    difference == 0 && expected.scheme == SCHEME_SHA256
}

fn hash(salt: &[u8; 16], password: &str) -> [u8; 32] {
    Sha256::new()
        .chain_update(salt)
        .chain_update(password)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_of_an_existing_user_passes() {
        let password = generate_password().unwrap();
        let verifier = verifier(&password).unwrap();
        assert!(verify(Some(&verifier), &password));
        assert!(!verify(Some(&verifier), "guess"));
        assert!(!verify(None, &password));
        assert!(!verify(None, ""));
    }

    #[test]
    fn generated_passwords_differ() {
        assert_ne!(generate_password().unwrap(), generate_password().unwrap());
    }
}
