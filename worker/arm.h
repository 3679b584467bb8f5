// Arms: which parts a ranker has. One code path serves all; an arm only switches parts on
// (docs/model.md).
#pragma once

#include <string>

namespace savior {

struct Arm {
  bool content = false;          // z (or z~) of the target in the DNN, and u * z
  bool generic = false;          // z is plain PCA, whatever encoder.kind says
  bool modal_attention = false;  // ModalTA beside BehaviorTA
  bool cross_attention = false;  // and the two mixed ones: the paper's four
  bool codes_in_dnn = false;     // embeddings of the semantic-ID codes straight into the DNN
  bool alignment = false;        // MBA: z~ = z + FusionMLP(...)
  bool shuffled_codes = false;   // control: codes permuted over contents
  bool free_content = false;     // control: one free vector per content in place of the code tables

  bool uses_contents() const { return content || uses_codes(); }
  bool uses_codes() const { return codes_in_dnn || (alignment && !free_content); }
};

// `name` must be one of config key model.arm's choices.
inline Arm ArmOf(const std::string& name) {
  Arm arm;
  if (name == "base") return arm;
  if (name == "sid") return arm.codes_in_dnn = true, arm;
  arm.content = true;
  if (name == "generic_content") return arm.generic = true, arm;
  arm.modal_attention = true;
  if (name == "saviorenc") return arm;
  arm.alignment = name != "mba_off";
  arm.cross_attention = name != "mba";
  arm.shuffled_codes = name == "shuffled_sid";
  arm.free_content = name == "free_content";
  return arm;
}

}  // namespace savior
