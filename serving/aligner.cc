#include "serving/aligner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "worker/arm.h"
#include "worker/tables.h"

namespace savior {
namespace {

// [out, in] as LibTorch has it -> [in, out] as AddProduct wants it.
std::vector<float> Transposed(const HostTensor& weight) {
  const auto out = static_cast<size_t>(weight.shape[0]), in = static_cast<size_t>(weight.shape[1]);
  std::vector<float> transposed(weight.data.size());
  for (size_t o = 0; o < out; ++o) {
    for (size_t i = 0; i < in; ++i) transposed[i * out + o] = weight.data[o * in + i];
  }
  return transposed;
}

absl::StatusOr<Mlp> FusionOf(const Config& config, const TensorFile& ranker, int64_t parts) {
  const int64_t dim = config.encoder.dim, hidden = config.model.fusion_hidden;
  SAVIOR_ASSIGN_OR_RETURN(const HostTensor in,
                          TakeTensor(ranker, "fusion.in.weight", {hidden, parts * dim}));
  SAVIOR_ASSIGN_OR_RETURN(const HostTensor out,
                          TakeTensor(ranker, "fusion.out.weight", {dim, hidden}));
  return Mlp{.inputs = static_cast<int>(parts * dim),
             .hidden = static_cast<int>(hidden),
             .outputs = static_cast<int>(dim),
             .w1 = Transposed(in),
             .b1 = std::vector<float>(static_cast<size_t>(hidden)),
             .w2 = Transposed(out),
             .b2 = std::vector<float>(static_cast<size_t>(dim))};
}

}  // namespace

absl::StatusOr<Aligner> Aligner::Of(const Config& config, const TensorFile& ranker, Tables tables) {
  const Arm arm = ArmOf(config.model.arm);
  Aligner aligner;
  aligner.on_ = arm.alignment;
  aligner.dim_ = static_cast<size_t>(config.encoder.dim);
  if (!arm.alignment) return aligner;
  aligner.codes_ = !arm.free_content;
  aligner.shrinks_ = aligner.codes_ && config.model.alignment == "hybrid";
  aligner.own_ = arm.free_content || aligner.shrinks_;
  aligner.shrinkage_ = config.model.hybrid_shrinkage;
  if (aligner.codes_) {
    aligner.levels_ = static_cast<size_t>(config.codebook.levels);
    aligner.prefixes_ = PrefixesOf(config);
    aligner.num_codes_ = static_cast<uint64_t>(config.codebook.codes);
  }
  SAVIOR_ASSIGN_OR_RETURN(aligner.fusion_,
                          FusionOf(config, ranker, static_cast<int64_t>(aligner.num_parts())));
  SAVIOR_RETURN_IF_ERROR(aligner.TakeTables(std::move(tables)));
  return aligner;
}

absl::Status Aligner::TakeTables(Tables tables) {
  const auto dim = static_cast<uint32_t>(dim_);
  if (codes_) {
    SAVIOR_ASSIGN_OR_RETURN(align_row_, RowDecoder::Of(tables.align.columns(), "row", dim));
    tables_.align = std::move(tables.align);
  }
  if (prefixes_ > 0) {
    SAVIOR_ASSIGN_OR_RETURN(prefix_row_, RowDecoder::Of(tables.prefix.columns(), "row", dim));
    tables_.prefix = std::move(tables.prefix);
  }
  if (own_) {
    const std::vector<Column>& columns = tables.content_vector.columns();
    SAVIOR_ASSIGN_OR_RETURN(vector_row_, RowDecoder::Of(columns, "row", dim));
    const auto updates = std::ranges::find(columns, Column{kUpdatesColumn, ColumnType::kU32, 1});
    if (updates == columns.end()) {
      return absl::DataLossError(fmt::format("no column \"{}\"", kUpdatesColumn));
    }
    updates_ = static_cast<size_t>(updates - columns.begin());
    tables_.content_vector = std::move(tables.content_vector);
  }
  return absl::OkStatus();
}

void Aligner::Align(std::span<const float> z, std::span<const uint16_t> codes,
                    std::optional<uint64_t> key, std::span<float> aligned) const {
  std::ranges::copy(z, aligned.begin());
  if (!on_) return;
  std::vector<float> parts(num_parts() * dim_);  // a missing row reads as zeros
  const auto part = [&](size_t number) { return std::span(parts).subspan(number * dim_, dim_); };
  for (size_t l = 0; l < levels_; ++l) {
    const auto place = tables_.align.Find(AlignKey(0, static_cast<uint32_t>(l), codes[l]));
    if (place) align_row_.Decode(*place, part(l));
  }
  if (prefixes_ > 0) {
    size_t number = levels_;
    ForEachPrefix(0, codes, num_codes_, [&](uint64_t prefix) {
      if (const auto place = tables_.prefix.Find(prefix)) prefix_row_.Decode(*place, part(number));
      ++number;
    });
  }
  if (own_ && key) {
    if (const auto place = tables_.content_vector.Find(*key)) {
      const std::span<float> own = part(levels_ + prefixes_);
      vector_row_.Decode(*place, own);
      uint32_t updates = 0;
      std::memcpy(&updates, place->file->Value(updates_, place->row).data(), sizeof(updates));
      // The ranker's own bound from below cannot matter: a row that exists was updated.
      const auto shrink = static_cast<float>(updates / (static_cast<double>(updates) + shrinkage_));
      if (shrinks_) {
        for (float& x : own) x *= shrink;
      }
    }
  }
  AddMlp(fusion_, parts, aligned);
}

}  // namespace savior
