//! Messages of protocol buffers, as far as TensorBoard's event files need them.

/// The number of a field.
type Field = u64;

/// A message.
#[derive(Debug, Clone, Default)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// An empty message.
    pub fn new() -> Message {
        Message::default()
    }

    /// Adds a whole number.
    pub fn int(mut self, field: Field, value: i64) -> Message {
        self.tag(field, 0);
        // A negative number is that of 64 bits.
        self.varint(value as u64);
        self
    }

    /// Adds a number of 64 bits.
    pub fn double(mut self, field: Field, value: f64) -> Message {
        self.tag(field, 1);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// Adds a number of 32 bits.
    pub fn float(mut self, field: Field, value: f32) -> Message {
        self.tag(field, 5);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// Adds a text.
    pub fn text(self, field: Field, value: &str) -> Message {
        self.bytes_field(field, value.as_bytes())
    }

    /// Adds a message.
    pub fn message(self, field: Field, value: &Message) -> Message {
        self.bytes_field(field, &value.bytes)
    }

    /// The message as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_field(mut self, field: Field, value: &[u8]) -> Message {
        self.tag(field, 2);
        self.varint(value.len() as u64);
        self.bytes.extend(value);
        self
    }

    fn tag(&mut self, field: Field, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_encoded_as_the_specification_has_them() {
        // The examples of the documentation of the encoding.
        assert_eq!(Message::new().int(1, 150).as_bytes(), [0x08, 0x96, 0x01]);
        let text = Message::new().text(2, "testing");
        assert_eq!(text.as_bytes(), b"\x12\x07testing");
        let inner = Message::new().int(1, 150);
        assert_eq!(Message::new().message(3, &inner).as_bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::new().int(1, -1).as_bytes().len(), 11);
        assert_eq!(Message::new().float(2, 1.0).as_bytes(), [0x15, 0, 0, 0x80, 0x3f]);
        assert_eq!(Message::new().double(1, 1.0).as_bytes(), [9, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
    }
}
