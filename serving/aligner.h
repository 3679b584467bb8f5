// z~ of a content from its parts (worker/model/ranker.h, MBA block), in plain C++:
//
//   z~ = z + FusionMLP([A_1[c_1]; ...; A_L[c_L]; P[c_1 c_2]; ...; P[c_1 ... c_L];
//                       shrunk vector of the content's own])
//
// The rows of prefixes, P, are there with model.prefix_ngrams only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "common/tensor_file.h"
#include "serving/row_codec.h"
#include "serving/table_file.h"
#include "worker/model/dense.h"

namespace savior {

// Columns of the content_vector table beside its rows: how often a row was updated.
inline constexpr const char* kUpdatesColumn = "updates";

// Immutable, thread-safe; a content's z~ does not depend on the others computed with it.
class Aligner {
 public:
  struct Tables {
    TableChain align;
    TableChain prefix;  // not looked at without model.prefix_ngrams
    TableChain content_vector;
  };
  // `ranker`: dense weights. kDataLoss: a weight is missing or of another shape; a table has other
  // columns.
  [[nodiscard]] static absl::StatusOr<Aligner> Of(const Config& config, const TensorFile& ranker,
                                                  Tables tables);

  // z [dim], codes [levels] -> aligned [dim]. key: the content's, none for one that is not in the
  // catalogue. Arms without alignment: aligned = z.
  void Align(std::span<const float> z, std::span<const uint16_t> codes, std::optional<uint64_t> key,
             std::span<float> aligned) const;

 private:
  Aligner() = default;
  // Of `tables` those that it uses.
  absl::Status TakeTables(Tables tables);
  size_t num_parts() const { return levels_ + prefixes_ + (own_ ? 1 : 0); }

  bool on_ = false, codes_ = false, own_ = false, shrinks_ = false;
  double shrinkage_ = 0;
  size_t dim_ = 0, levels_ = 0, prefixes_ = 0;
  uint64_t num_codes_ = 0;
  Mlp fusion_;
  Tables tables_;  // those in use
  RowDecoder align_row_, prefix_row_, vector_row_;
  size_t updates_ = 0;  // column
};

}  // namespace savior
