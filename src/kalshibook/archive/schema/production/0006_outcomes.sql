-- What became of a gap once all sources have been merged: the others filled it, trades were fetched over REST, or it is
-- lost. And the bulk form in which series, events and markets are compared with what is known.

ALTER TABLE gaps
    ADD COLUMN outcome text CHECK (outcome IN ('filled', 'backfilled', 'lost')),
    ADD COLUMN judged_us bigint,
    ADD COLUMN lost_tickers text[],
    ADD COLUMN backfilled_trades integer;
COMMENT ON COLUMN gaps.outcome IS 'NULL until it is judged, some minutes after it was healed.';
COMMENT ON COLUMN gaps.lost_tickers IS 'Those of its markets that no other source watched all the while.';
CREATE INDEX gaps_unjudged ON gaps (detected_us) WHERE outcome IS NULL;
