//! A clock that is moved: each line on stdin is how many seconds go by at once.

use std::io::BufRead as _;
use std::time::Duration;

use protocol::clock::Clock;

/// Calls `moved` each time when it has been moved.
pub(crate) fn by_stdin(moved: fn()) -> Clock {
    let clock = Clock::system();
    std::thread::spawn({
        let clock = clock.clone();
        move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                clock.advance(Duration::from_secs(line.parse().expect("seconds")));
                moved();
            }
        }
    });
    clock
}
