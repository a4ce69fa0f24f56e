//! Counters, gauges, histograms.
