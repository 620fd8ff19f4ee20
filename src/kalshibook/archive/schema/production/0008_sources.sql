-- `sources` of a row is a set of 63 bits, so that is how many names there may ever be; one more would pass for another.

ALTER TABLE sources ADD CONSTRAINT sources_are_bits CHECK (source_id BETWEEN 1 AND 63);
