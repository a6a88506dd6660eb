//! Numbers as the pages and plots show them.

/// Milliseconds, to three digits.
pub(crate) fn ms(value: f64) -> String {
    let decimals = usize::from(value < 10.0) + usize::from(value < 100.0);
    format!("{value:.decimals$}")
}

/// With commas between thousands.
pub(crate) fn grouped(number: usize) -> String {
    match number / 1_000 {
        0 => number.to_string(),
        thousands => format!("{},{:03}", grouped(thousands), number % 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_shown_as_people_read_it() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!([ms(3.456), ms(34.56), ms(345.6)], ["3.46", "34.6", "346"]);
    }
}
