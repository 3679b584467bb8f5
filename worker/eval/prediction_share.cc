#include "worker/eval/prediction_share.h"

#include <absl/strings/str_cat.h>

#include <cstring>

namespace savior {
namespace {

// Calls visit(column) for every array of `predictions`.
template <typename P, typename Visit>
void ForEachColumn(P& predictions, Visit visit) {
  visit(predictions.request_ids);
  visit(predictions.timestamps);
  visit(predictions.users);
  visit(predictions.items);
  visit(predictions.clicks);
  visit(predictions.conversions);
  visit(predictions.weights);
  visit(predictions.prior_counts);
  visit(predictions.p_ctr);
  visit(predictions.p_ctcvr);
}

// Calls visit(a's column, b's column) for all of them.
template <typename Visit>
void ForEachColumnPair(const Predictions& a, Predictions& b, Visit visit) {
  visit(a.request_ids, b.request_ids);
  visit(a.timestamps, b.timestamps);
  visit(a.users, b.users);
  visit(a.items, b.items);
  visit(a.clicks, b.clicks);
  visit(a.conversions, b.conversions);
  visit(a.weights, b.weights);
  visit(a.prior_counts, b.prior_counts);
  visit(a.p_ctr, b.p_ctr);
  visit(a.p_ctcvr, b.p_ctcvr);
}

struct Header {
  int64_t worker = 0, workers = 0, batches = 0, rows = 0;
};

size_t BytesPerRow() {
  size_t bytes = 0;
  const Predictions none;
  ForEachColumn(none, [&bytes](const auto& column) { bytes += sizeof(column[0]); });
  return bytes;
}

template <typename T>
void AppendBytes(const std::vector<T>& values, std::string* to) {
  to->append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// The first `n` values of `bytes`, which holds as many.
template <typename T>
void TakeBytes(int64_t n, std::string_view* bytes, std::vector<T>* values) {
  values->resize(static_cast<size_t>(n));
  const size_t size = values->size() * sizeof(T);
  if (size > 0) std::memcpy(values->data(), bytes->data(), size);
  bytes->remove_prefix(size);
}

absl::Status CheckShare(const PredictionShare& share, size_t worker, size_t workers,
                        size_t batches) {
  const auto refuse = [worker](const auto&... what) {
    return absl::DataLossError(absl::StrCat("predictions of worker ", worker, ": ", what...));
  };
  if (share.worker != static_cast<int64_t>(worker) ||
      share.workers != static_cast<int64_t>(workers)) {
    return refuse("they are the share of worker ", share.worker, " of ", share.workers);
  }
  const size_t expected = (batches + workers - 1 - worker) / workers;
  if (share.batch_rows.size() != expected) {
    return refuse(share.batch_rows.size(), " batches, expected ", expected, " of ", batches);
  }
  int64_t rows = 0;
  for (const int64_t n : share.batch_rows) {
    if (n < 0) return refuse("a batch of ", n, " impressions");
    rows += n;
  }
  if (rows != share.predictions.rows()) {
    return refuse(share.predictions.rows(), " impressions, its batches have ", rows);
  }
  return absl::OkStatus();
}

}  // namespace

std::string EncodeShare(const PredictionShare& share) {
  const Header header = {share.worker, share.workers, static_cast<int64_t>(share.batch_rows.size()),
                         share.predictions.rows()};
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  bytes.reserve(sizeof header + share.batch_rows.size() * sizeof(int64_t) +
                static_cast<size_t>(header.rows) * BytesPerRow());
  AppendBytes(share.batch_rows, &bytes);
  ForEachColumn(share.predictions, [&bytes](const auto& column) { AppendBytes(column, &bytes); });
  return bytes;
}

absl::StatusOr<PredictionShare> DecodeShare(std::string_view bytes) {
  Header header;
  if (bytes.size() < sizeof header) {
    return absl::DataLossError(absl::StrCat("predictions of ", bytes.size(), " bytes"));
  }
  std::memcpy(&header, bytes.data(), sizeof header);
  const size_t size = bytes.size();
  bytes.remove_prefix(sizeof header);
  // Bounds first: sizes of a damaged header must not overflow.
  const auto most = static_cast<int64_t>(size);
  if (header.batches < 0 || header.batches > most || header.rows < 0 || header.rows > most ||
      bytes.size() != static_cast<size_t>(header.batches) * sizeof(int64_t) +
                          static_cast<size_t>(header.rows) * BytesPerRow()) {
    return absl::DataLossError(absl::StrCat("predictions of ", size, " bytes are said to be of ",
                                            header.batches, " batches and ", header.rows,
                                            " impressions"));
  }
  PredictionShare share;
  share.worker = header.worker;
  share.workers = header.workers;
  TakeBytes(header.batches, &bytes, &share.batch_rows);
  ForEachColumn(share.predictions, [&](auto& column) { TakeBytes(header.rows, &bytes, &column); });
  return share;
}

absl::StatusOr<Predictions> MergeShares(std::span<const PredictionShare> shares) {
  size_t batches = 0;
  for (const PredictionShare& share : shares) batches += share.batch_rows.size();
  for (size_t w = 0; w < shares.size(); ++w) {
    SAVIOR_RETURN_IF_ERROR(CheckShare(shares[w], w, shares.size(), batches));
  }
  Predictions merged;
  std::vector<int64_t> taken(shares.size());  // rows
  for (size_t b = 0; b < batches; ++b) {
    const size_t w = b % shares.size();
    const int64_t begin = taken[w], end = begin + shares[w].batch_rows[b / shares.size()];
    taken[w] = end;
    ForEachColumnPair(shares[w].predictions, merged, [begin, end](const auto& from, auto& to) {
      to.insert(to.end(), from.begin() + begin, from.begin() + end);
    });
  }
  return merged;
}

}  // namespace savior
