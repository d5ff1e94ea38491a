//! Chooses the narrowest type that holds all whole numbers of a column: int64, uint64, else their
//! text.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, UInt64Type};

/// The range of the whole numbers seen so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Range {
    negative: bool,
    above_int64: bool,
    beyond: bool,
}

impl Range {
    /// Widens the range to a number; `None` is one of more than 128 bits.
    pub fn add(&mut self, number: Option<i128>) {
        let Some(number) = number else {
            self.beyond = true;
            return;
        };
        self.negative |= number < 0;
        self.above_int64 |= number > i128::from(i64::MAX);
        self.beyond |= number > i128::from(u64::MAX) || number < i128::from(i64::MIN);
    }

    /// Widens the range to another one.
    pub fn merge(&mut self, other: &Range) {
        self.negative |= other.negative;
        self.above_int64 |= other.above_int64;
        self.beyond |= other.beyond;
    }

    /// Returns the narrowest type for the numbers.
    pub fn data_type(&self) -> DataType {
        match (self.beyond || self.above_int64 && self.negative, self.above_int64) {
            (true, _) => DataType::Utf8,
            (false, true) => DataType::UInt64,
            (false, false) => DataType::Int64,
        }
    }
}

/// The ranges of the numbers in a column whose type alone does not tell them, one per type inside
/// of it.
#[derive(Debug, Default, Clone)]
pub(super) struct Ranges {
    own: Range,
    inside: Vec<Ranges>,
}

/// Whether the values of such a column decide its type in our tables.
pub(super) fn undecided(found: &DataType) -> bool {
    match found {
        DataType::UInt64 | DataType::Decimal128(_, 0) => true,
        DataType::List(item) => undecided(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| undecided(field.data_type())),
        _ => false,
    }
}

impl Ranges {
    /// Takes in some values of the column.
    pub fn add(&mut self, array: &dyn Array) {
        match array.data_type() {
            DataType::UInt64 => {
                let numbers = array.as_primitive::<UInt64Type>();
                numbers.iter().flatten().for_each(|n| self.own.add(Some(n.into())));
            }
            DataType::Decimal128(_, 0) => {
                let numbers = array.as_primitive::<Decimal128Type>();
                numbers.iter().flatten().for_each(|n| self.own.add(Some(n)));
            }
            DataType::List(item) if undecided(item.data_type()) => {
                self.inside(0).add(array.as_list::<i32>().values());
            }
            DataType::Struct(fields) => {
                for (i, field) in fields.iter().enumerate() {
                    if undecided(field.data_type()) {
                        self.inside(i).add(array.as_struct().column(i));
                    }
                }
            }
            _ => {}
        }
    }

    fn inside(&mut self, at: usize) -> &mut Ranges {
        if self.inside.len() <= at {
            self.inside.resize_with(at + 1, Ranges::default);
        }
        &mut self.inside[at]
    }

    /// Returns the ranges of the column's part number `at`.
    pub fn of_part(&self, at: usize) -> Ranges {
        self.inside.get(at).cloned().unwrap_or_default()
    }

    /// Returns the narrowest type for the numbers of an undecided column that is neither a list nor
    /// a mapping.
    pub fn data_type(&self) -> DataType {
        self.own.data_type()
    }
}
