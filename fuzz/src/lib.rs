//! Fuzz targets: a property of a reader of bytes from outside, checked with the files of a corpus and with mutations of them.
//!
//! [`target!`] is the body of a test next to the code that it checks. [Bolero](https://docs.rs/bolero) runs it, for half a second with all other
//! tests, and for as long as `BOLERO_RANDOM_TEST_TIME_MS` says. CONTRIBUTING.md has the commands.
//!
//! Invariant: what is generated depends on the corpus and on the choices of the driver alone, so the seed of a failure repeats it.

mod corpus;
pub mod json;
mod mutation;

#[doc(hidden)]
pub use bolero;

use std::time::Duration;

pub use corpus::Corpus;
pub use mutation::{Input, Mutations};

/// How long a target runs with all other tests.
pub const SHORT: Duration = Duration::from_millis(500);

/// Checks a property, which takes a `&[u8]` and panics where it does not hold, with the files of the corpus `fuzz/corpus/<name>` and with
/// mutations of them. Further directories of files are named from the root of the workspace.
#[macro_export]
macro_rules! target {
    ($name:literal, $property:expr) => {
        $crate::target!($name, [], $property)
    };
    ($name:literal, [$($more:literal),*], $property:expr) => {{
        let property = $property;
        let corpus = $crate::Corpus::read(&[concat!("fuzz/corpus/", $name), $($more),*]);
        for (name, input) in corpus.files() {
            println!("{name}");
            property(input);
        }
        $crate::bolero::check!()
            .with_test_time($crate::SHORT)
            .with_generator($crate::Mutations::of(&corpus))
            .for_each(|input: &$crate::Input| property(input.bytes()));
    }};
}
