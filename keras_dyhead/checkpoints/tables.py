"""Names of our layers -> names of the modules in published checkpoints (see `transfer.Part`).

`transfer.LEAVES` maps the weights: Keras' kernel or gamma is a PyTorch module's weight, and so on.
Braces are numbers: `l` counts ResNet's stages from 1, `s` Swin's stages from 0, `n` blocks, `i`
convolutions or layers of a block, `p` pyramid levels.
"""

RESNET_DETECTRON2 = {
    "conv1": "stem.conv1",
    "bn1": "stem.conv1.norm",
    "layer{l}_{n}_conv{i}": "res{l+1}.{n}.conv{i}",
    "layer{l}_{n}_conv2/offset_conv": "res{l+1}.{n}.conv2_offset",
    "layer{l}_{n}_bn{i}": "res{l+1}.{n}.conv{i}.norm",
    "layer{l}_{n}_downsample_conv": "res{l+1}.{n}.shortcut",
    "layer{l}_{n}_downsample_bn": "res{l+1}.{n}.shortcut.norm",
}
RESNET_TORCHVISION = {  # timm's and mmdet's names too
    "conv1": "conv1",
    "bn1": "bn1",
    "layer{l}_{n}_conv{i}": "layer{l}.{n}.conv{i}",
    "layer{l}_{n}_conv2/offset_conv": "layer{l}.{n}.conv2.conv_offset",
    "layer{l}_{n}_bn{i}": "layer{l}.{n}.bn{i}",
    "layer{l}_{n}_downsample_conv": "layer{l}.{n}.downsample.0",
    "layer{l}_{n}_downsample_bn": "layer{l}.{n}.downsample.1",
}

SWIN_MICROSOFT = {
    "patch_embed/proj": "patch_embed.proj",
    "patch_embed/norm": "patch_embed.norm",
    "stage{s}_block{n}/norm{i}": "layers.{s}.blocks.{n}.norm{i}",
    "stage{s}_block{n}/attn/qkv": "layers.{s}.blocks.{n}.attn.qkv",
    "stage{s}_block{n}/attn/proj": "layers.{s}.blocks.{n}.attn.proj",
    "stage{s}_block{n}/attn/relative_position_bias_table": (
        "layers.{s}.blocks.{n}.attn.relative_position_bias_table"
    ),
    "stage{s}_block{n}/fc{i}": "layers.{s}.blocks.{n}.mlp.fc{i}",
    "stage{s}_downsample/norm": "layers.{s}.downsample.norm",
    "stage{s}_downsample/reduction": "layers.{s}.downsample.reduction",
    "norm{s}": "norm{s}",
}
SWIN_TIMM = SWIN_MICROSOFT | {  # from timm 0.9 on, a stage begins with its downsampling
    "stage{s}_downsample/norm": "layers.{s+1}.downsample.norm",
    "stage{s}_downsample/reduction": "layers.{s+1}.downsample.reduction",
}
SWIN_TORCHVISION = {
    "patch_embed/proj": "features.0.0",
    "patch_embed/norm": "features.0.2",
    "stage{s}_block{n}/norm{i}": "features.{2*s+1}.{n}.norm{i}",
    "stage{s}_block{n}/attn/qkv": "features.{2*s+1}.{n}.attn.qkv",
    "stage{s}_block{n}/attn/proj": "features.{2*s+1}.{n}.attn.proj",
    "stage{s}_block{n}/attn/relative_position_bias_table": (
        "features.{2*s+1}.{n}.attn.relative_position_bias_table"
    ),
    "stage{s}_block{n}/fc1": "features.{2*s+1}.{n}.mlp.0",
    "stage{s}_block{n}/fc2": "features.{2*s+1}.{n}.mlp.3",
    "stage{s}_downsample/norm": "features.{2*s+2}.norm",
    "stage{s}_downsample/reduction": "features.{2*s+2}.reduction",
}
SWIN_MMDET = {
    "patch_embed/proj": "patch_embed.projection",
    "patch_embed/norm": "patch_embed.norm",
    "stage{s}_block{n}/norm{i}": "stages.{s}.blocks.{n}.norm{i}",
    "stage{s}_block{n}/attn/qkv": "stages.{s}.blocks.{n}.attn.w_msa.qkv",
    "stage{s}_block{n}/attn/proj": "stages.{s}.blocks.{n}.attn.w_msa.proj",
    "stage{s}_block{n}/attn/relative_position_bias_table": (
        "stages.{s}.blocks.{n}.attn.w_msa.relative_position_bias_table"
    ),
    "stage{s}_block{n}/fc1": "stages.{s}.blocks.{n}.ffn.layers.0.0",
    "stage{s}_block{n}/fc2": "stages.{s}.blocks.{n}.ffn.layers.1",
    "stage{s}_downsample/norm": "stages.{s}.downsample.norm",
    "stage{s}_downsample/reduction": "stages.{s}.downsample.reduction",
    "norm{s}": "norm{s}",
}

FPN_DETECTRON2 = {
    "lateral_P{p}": "fpn_lateral{p}",
    "output_P6": "top_block.p6",
    "output_P7": "top_block.p7",
    "output_P{p}": "fpn_output{p}",
}
FPN_MMDET = {  # counted from P3
    "lateral_P{p}": "lateral_convs.{p-3}.conv",
    "output_P{p}": "fpn_convs.{p-3}.conv",
}
FPN_MMDET_FROM_P2 = {
    "lateral_P{p}": "lateral_convs.{p-2}.conv",
    "output_P{p}": "fpn_convs.{p-2}.conv",
}

RETINANET_DETECTRON2 = {
    "class_conv_{i}": "cls_subnet.{2*i}",  # a ReLU between any two
    "box_conv_{i}": "bbox_subnet.{2*i}",
    "class_logits": "cls_score",
    "box_deltas": "bbox_pred",
}
RETINANET_MMDET = {
    "class_conv_{i}": "cls_convs.{i}.conv",
    "box_conv_{i}": "reg_convs.{i}.conv",
    "class_logits": "retina_cls",
    "box_deltas": "retina_reg",
}
FCOS_MMDET = {
    "class_conv_{i}": "cls_convs.{i}.conv",
    "class_norm_{i}": "cls_convs.{i}.gn",
    "box_conv_{i}": "reg_convs.{i}.conv",
    "box_norm_{i}": "reg_convs.{i}.gn",
    "class_logits": "conv_cls",
    "box_distances": "conv_reg",
    "centerness_logits": "conv_centerness",
    "box_scale_P{p}": "scales.{p-3}.scale",
}
REPPOINTS_MMDET = {
    "class_conv_{i}": "cls_convs.{i}.conv",
    "class_norm_{i}": "cls_convs.{i}.gn",
    "point_conv_{i}": "reg_convs.{i}.conv",
    "point_norm_{i}": "reg_convs.{i}.gn",
    "initial_conv": "reppoints_pts_init_conv",
    "initial_points": "reppoints_pts_init_out",
    "class_kernel": "reppoints_cls_conv.weight",
    "class_logits": "reppoints_cls_out",
    "refining_kernel": "reppoints_pts_refine_conv.weight",
    "refined_points": "reppoints_pts_refine_out",
    "moment_transfer": "moment_transfer",
}
ATSS_MICROSOFT = {
    "class_logits": "cls_logits",
    "box_deltas": "bbox_pred",
    "centerness_logits": "centerness",
    "box_scale_P{p}": "scales.{p-3}.scale",
}
ATSS_MMDET = {
    "class_logits": "atss_cls",
    "box_deltas": "atss_reg",
    "centerness_logits": "atss_centerness",
    "box_scale_P{p}": "scales.{p-3}.scale",
}

RCNN_DETECTRON2 = {
    "rpn/shared_conv_0": "proposal_generator.rpn_head.conv",
    "rpn/objectness_logits": "proposal_generator.rpn_head.objectness_logits",
    "rpn/anchor_deltas": "proposal_generator.rpn_head.anchor_deltas",
    "box_head/fc{i}": "roi_heads.box_head.fc{i}",
    "box_head/class_logits": "roi_heads.box_predictor.cls_score",
    "box_head/box_deltas": "roi_heads.box_predictor.bbox_pred",
}
RCNN_MMDET = {
    "rpn/shared_conv_0": "rpn_head.rpn_conv",
    "rpn/objectness_logits": "rpn_head.rpn_cls",
    "rpn/anchor_deltas": "rpn_head.rpn_reg",
    "box_head/fc{i}": "roi_head.bbox_head.shared_fcs.{i-1}",
    "box_head/class_logits": "roi_head.bbox_head.fc_cls",
    "box_head/box_deltas": "roi_head.bbox_head.fc_reg",
}

# Tensors that the models do not need: counters, constants that models compute themselves, and
# extras of older versions of detectron2.
UNUSED = (
    r"(.*\.)?num_batches_tracked",
    r"(.*\.)?relative_position_index",
    r"(.*\.)?attn_mask",
    r"pixel_(mean|std)",
    r"(.*\.)?anchor_generator\.cell_anchors\.\d+",
)
# In ImageNet weights: the classifier and the normalization before it.
UNUSED_CLASSIFIER = (r"((stem\.)?fc|head|classifier)\..*", r"norm\.(weight|bias)")
