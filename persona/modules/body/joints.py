"""SMPL-X's joints by number: which make up the head, the hands and the limbs.

For what is laid out as SMPL-X; what serves any skeleton asks its ``Body``.
"""

NUM_BODY = 22
"""The body's joints, pelvis first, as SMPL has them; jaw, eyes and hands follow."""
PELVIS, NECK, HEAD, JAW, EYES = 0, 12, 15, 22, (23, 24)
LEFT_HIP, RIGHT_HIP, LEFT_KNEE, RIGHT_KNEE, LEFT_ANKLE, RIGHT_ANKLE = 1, 2, 4, 5, 7, 8
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW = 16, 17, 18, 19
LEFT_WRIST, RIGHT_WRIST = 20, 21
FIRST_HAND = 25
"""First joint of the left hand; the right hand's are the last 15."""
LEFT_FINGERS, RIGHT_FINGERS = range(FIRST_HAND, 40), range(40, 55)
LEFT_HAND, RIGHT_HAND = (LEFT_WRIST, *LEFT_FINGERS), (RIGHT_WRIST, *RIGHT_FINGERS)
HEAD_JOINTS = (HEAD, JAW, *EYES)
LIMBS = {
    "Face_Neck": HEAD_JOINTS, "Neck": (NECK,), "Torso": (PELVIS, 3, 6, 9, 13, 14),
    "Left_Upper_Arm": (LEFT_SHOULDER,), "Right_Upper_Arm": (RIGHT_SHOULDER,),
    "Left_Lower_Arm": (LEFT_ELBOW,), "Right_Lower_Arm": (RIGHT_ELBOW,),
    "Left_Hand": LEFT_HAND, "Right_Hand": RIGHT_HAND,
    "Left_Upper_Leg": (LEFT_HIP,), "Right_Upper_Leg": (RIGHT_HIP,),
    "Left_Lower_Leg": (LEFT_KNEE,), "Right_Lower_Leg": (RIGHT_KNEE,),
    "Left_Foot": (LEFT_ANKLE, 10), "Right_Foot": (RIGHT_ANKLE, 11),
}  # fmt: skip
"""Joints that move each limb, which has the name of its skin among the part classes; the neck is
apart from the face."""
